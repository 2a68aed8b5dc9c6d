"""The three calls of KMS v2 beside a bare grpcio server with the same cipher, and beside a peer where one is given.

A peer is any other plugin that serves KMS v2 on a Unix socket: --peer-command 'PROGRAM ... {socket}', or --peer-socket.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import grpc

from benchmarks import daemons, places, processes
from benchmarks.harness import Figure, Options, p50, pairs, split
from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc

_CALLS = 200  # in a batch, whose median is one value
_LAUNCHES = 6
_SEED = os.urandom(32)  # what kube-apiserver encrypts is such a seed

Calls = dict[str, Callable[[], object]]
Values = dict[tuple[str, str], tuple[list[float], list[float]]]
"""By name of the other side and of the call: ours and theirs."""


def run(options: Options) -> list[Figure]:
    """Status, Encrypt and Decrypt, each against each other side."""
    found: Values = defaultdict(lambda: ([], []))
    for number, count in enumerate(split(options.pairs, _LAUNCHES), 1):
        with places.root() as root, contextlib.ExitStack() as open_things:
            _launch(root, open_things, options, number, count, found)
    note = f"each value is the p50 of {_CALLS} calls; all servers are started anew {_LAUNCHES} times"
    return [
        Figure(f"kms: {call} p50", "ms", *values, note=note, against=other) for (other, call), values in found.items()
    ]


def _launch(
    root: Path, open_things: contextlib.ExitStack, options: Options, number: int, count: int, found: Values
) -> None:
    mine = _calls(open_things, open_things.enter_context(daemons.kms(root)))
    for other, socket in _others(open_things, root, options).items():
        theirs = _calls(open_things, socket)
        for call in mine:
            name = f"kms {call} beside {other}, launch {number}"
            values = pairs(name, count, p50(mine[call], _CALLS), p50(theirs[call], _CALLS))
            for side, new in zip(found[other, call], values, strict=True):
                side += new


def _others(open_things: contextlib.ExitStack, root: Path, options: Options) -> dict[str, Path]:
    bare = root / "bare.sock"
    found = {"bare": open_things.enter_context(processes.serving(processes.bare(bare, "kms"), bare))}
    if options.peer_command:
        socket = root / "peer.sock"
        argv = processes.peer(options.peer_command, socket)
        found["peer"] = open_things.enter_context(processes.serving(argv, socket))
    elif options.peer_socket:
        found["peer"] = Path(options.peer_socket)
    return found


def _calls(open_things: contextlib.ExitStack, socket: Path) -> Calls:
    channel: grpc.Channel = open_things.enter_context(processes.open_channel(socket))
    stub = rpc.KeyManagementServiceStub(channel)
    encrypt = pb.EncryptRequest(plaintext=_SEED, uid="bench")
    sealed = stub.Encrypt(encrypt)
    decrypt = pb.DecryptRequest(
        ciphertext=sealed.ciphertext, key_id=sealed.key_id, annotations=dict(sealed.annotations), uid="bench"
    )
    if stub.Decrypt(decrypt).plaintext != _SEED:
        raise processes.Failed(f"{socket} does not give back what was encrypted")
    status = pb.StatusRequest()
    return {
        "Status": lambda: stub.Status(status),
        "Encrypt": lambda: stub.Encrypt(encrypt),
        "Decrypt": lambda: stub.Decrypt(decrypt),
    }
