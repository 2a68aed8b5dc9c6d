"""Who gets in: the kernel's word on the peer, and how many connections it may have."""

from __future__ import annotations

import logging
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from plugins.core.acceptor import Acceptor, Limits, PeerPolicy
from plugins.core.acceptor.peers import Peer, peer_of
from tests.contract.acceptor_kit import Caller, RawClient, acceptor, listen, served, server, until

NOBODY = 65534


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (PeerPolicy(), False),
        (PeerPolicy(uids=frozenset({1000})), True),
        (PeerPolicy(uids=frozenset({1001})), False),
        (PeerPolicy(gids=frozenset({100})), True),
        (PeerPolicy(gids=frozenset({1000})), False),
        (PeerPolicy(uids=frozenset({1001}), gids=frozenset({100})), True),
    ],
)
def test_an_allow_list_of_uids_or_gids(policy: PeerPolicy, allowed: bool) -> None:
    assert policy.allows(pid=1, uid=1000, gid=100) == allowed


def test_supplementary_groups_count() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(1, NOBODY, NOBODY)  # as if neither its uid nor its primary group were listed
        for group in os.getgroups():
            assert PeerPolicy(gids=frozenset({group})).admits(ours, peer)
        assert not PeerPolicy(gids=frozenset({54321})).admits(ours, peer)
        assert not PeerPolicy(uids=frozenset(os.getgroups())).admits(ours, peer)


def test_the_kernel_says_who_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.getuid(), os.getgid())


def test_a_peer_that_is_not_listed_is_turned_away(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = PeerPolicy(uids=frozenset({os.getuid() + 1}))
    made = Acceptor(policy, name="test")
    with server(short_tmp / "backend"), listen(short_tmp / "public") as listener:
        made.add(listener, str(short_tmp / "backend"))
        made.start()
        with Caller(short_tmp / "public") as caller, pytest.raises(grpc.RpcError) as refused:
            caller.echo(b"let me in")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        for _ in range(5):
            with RawClient(short_tmp / "public") as client:
                assert client.next() is None
        stats = made.stats()
        made.close()
    assert stats.refused_peers >= 6
    assert stats.accepted == 0
    lines = [record for record in caplog.records if record.name == "nodeplug.acceptor"]
    assert len(lines) == 1  # the others were counted: whoever is refused must not fill the log
    assert lines[0].levelno == logging.WARNING
    fields = vars(lines[0])["fields"]
    assert fields == {"acceptor": "test", "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}


@pytest.mark.parametrize("limits", [Limits(connections=2), Limits(connections_per_uid=2)])
def test_connections_over_the_limit_are_closed_at_once(short_tmp: Path, limits: Limits) -> None:
    with served(short_tmp, limits) as (public, acceptor):
        with RawClient(public) as first, RawClient(public) as second:
            first.greet()
            second.greet()
            with RawClient(public) as third:
                assert third.next() is None
            assert acceptor.stats().refused_limit == 1
        until(lambda: acceptor.stats().connections == 0)
        with Caller(public) as caller:
            assert caller.echo(b"there is room again") == b"there is room again"


def starve(folder: Path) -> None:
    """In a process of its own: take all descriptors, let the acceptor notice, give them back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listen(folder / "public") as listener, acceptor(listener, folder / "backend") as made:
        assert made.drain(1)
        with RawClient(folder / "public"):
            held = [os.open("/dev/null", os.O_RDONLY)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 64, before[1]))
            try:
                while True:
                    held.append(os.dup(held[0]))
            except OSError:
                made.resume()
                until(lambda: made.stats().failures)
                assert made.stats().failures == 1  # one attempt, then a rest; the client waits in the backlog
                assert made.stats().accepted == 0
            for descriptor in held:
                os.close(descriptor)
            until(lambda: made.stats().accepted == 1)
            assert made.stats().failures == 1


def test_no_descriptors_left_is_survived_without_spinning(short_tmp: Path) -> None:
    code = f"import pathlib, sys; from {__name__} import starve; starve(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code, short_tmp], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
