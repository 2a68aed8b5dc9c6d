"""Asks a KMS v2 plugin for its Status as the API server would, and says whether the API server would be content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc
from plugins.core import client
from plugins.core.errors import Internal, Unavailable
from plugins.kms import limits
from plugins.kms.announce import GENERATION, OBSERVE

_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_VERSIONS = (limits.API_VERSION, "v2beta1")


@dataclass(frozen=True)
class Look:
    """What a plugin said. generation: of its keyring; None where it is another plugin than ours."""

    status: pb.StatusResponse
    generation: int | None


def look(socket: Path, timeout_s: float) -> Look:
    """Ask the plugin behind a socket; changes nothing in it.

    Raises:
        Unavailable: nobody answers there in time.
        Internal: the plugin answered with an error.
    """
    with client.channel(socket.absolute()) as channel:
        stub = rpc.KeyManagementServiceStub(channel)
        try:
            status, call = stub.Status.with_call(pb.StatusRequest(), timeout=timeout_s, metadata=((OBSERVE, "1"),))
        except grpc.RpcError as error:
            kind = Unavailable if error.code() in _NOBODY else Internal
            raise kind(f"{socket}: {client.reason(error)}") from error
        told = dict(call.trailing_metadata() or ())
    return Look(status, int(told[GENERATION]) if GENERATION in told else None)


def problems(answer: pb.StatusResponse) -> list[str]:
    """What kube-apiserver would find wrong with a Status."""
    found = []
    if answer.version not in _VERSIONS:
        found.append(f"version {answer.version!r}: the API server takes {' or '.join(_VERSIONS)}")
    if answer.healthz != "ok":
        found.append(f'healthz {answer.healthz!r}: the API server is not ready unless it is "ok"')
    size = len(answer.key_id.encode())
    if not 1 <= size <= limits.KEY_ID_MAX:
        found.append(f"key_id of {size} bytes: 1 to {limits.KEY_ID_MAX} are allowed")
    return found
