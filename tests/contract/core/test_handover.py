"""An upgrade while callers call: no call is lost, no file changes, and a bad successor changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2, deviceplugin_pb2_grpc
from plugins.api.kms.v2 import kms_pb2, kms_pb2_grpc
from plugins.core import client
from plugins.core.sockets import file_identity
from tests.contract.callers import Callers
from tests.contract.core.conftest import Process

Start = Callable[..., Process]
HANDOVERS = 8  # of this small plugin; test_upgrades.py does it fifty times with the real daemons


def encrypt(channel: grpc.Channel) -> None:
    """A call that takes two milliseconds and writes to the store."""
    kms_pb2_grpc.KeyManagementServiceStub(channel).Encrypt(kms_pb2.EncryptRequest(uid="0.002"), timeout=30)


@pytest.mark.parametrize("shared", [True, False], ids=["one shared channel", "a channel each"])
@pytest.mark.timeout(600)
def test_no_call_is_lost_over_many_handovers(start: Start, shared: bool) -> None:
    current = start().serving()
    identities = [file_identity(current.socket), file_identity(current.registration_socket)]
    with Callers(current.socket, encrypt, 8, shared=shared) as callers:
        for _ in range(HANDOVERS):
            before = sum(callers.calls)
            successor = start().serving()
            current.wait_for("the new process is ready; this one waits for SIGTERM and touches nothing")
            assert current.stop() == 0
            assert successor.who() == successor.pid
            assert sum(callers.calls) > before
            current = successor
    assert callers.failures == []
    assert min(callers.calls) > 0
    assert [file_identity(current.socket), file_identity(current.registration_socket)] == identities
    print(f"{HANDOVERS} hand-overs, {sum(callers.calls)} calls, 0 failed")


def test_the_yielded_process_stays_until_sigterm_and_then_touches_nothing(start: Start) -> None:
    first = start().serving()
    second = start().serving()
    first.wait_for("the new process is ready; this one waits for SIGTERM and touches nothing")
    assert first.popen.poll() is None
    assert first.stop() == 0
    assert second.who() == second.pid
    third = start().serving()
    assert third.who() == third.pid


def test_a_successor_that_cannot_start_changes_nothing(start: Start) -> None:
    first = start().serving()
    identity = file_identity(first.registration_socket)
    with Callers(first.socket, encrypt, 4, shared=False) as callers:
        second = start("start=fail")
        assert second.popen.wait(30) == 2
        first.wait_for("the new process did not become ready; taking everything back")
        assert first.who() == first.pid
    assert callers.failures == []
    assert file_identity(first.registration_socket) == identity
    assert start().serving().who() != first.pid  # and it can still hand over


def test_a_successor_that_hangs_is_given_up(start: Start) -> None:
    first = start("handover_timeout=2").serving()
    with Callers(first.socket, encrypt, 4, shared=True) as callers:
        second = start("start=hang", "handover_timeout=2")
        first.wait_for("the new process did not become ready; taking everything back")
        assert second.popen.wait(30) == 1
        assert first.who() == first.pid
    assert callers.failures == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_successor_that_dies_half_way_is_given_up(start: Start, number: int) -> None:
    first = start().serving()
    second = start("start=hang")
    first.wait_for("handing over to a new process")
    second.wait_for("took over from the process before")
    second.popen.send_signal(number)
    first.wait_for("the new process did not become ready; taking everything back")
    assert first.who() == first.pid


def test_kill_9_of_the_new_process_after_ready_and_a_restart(start: Start) -> None:
    first = start().serving()
    second = start().serving()
    first.wait_for("the new process is ready; this one waits for SIGTERM and touches nothing")
    second.stop(signal.SIGKILL)
    third = start().serving()  # what the kubelet does: the container starts again, the old pod is still there
    assert third.who() == third.pid
    assert first.stop() == 0
    assert third.who() == third.pid


def test_an_open_stream_ends_cleanly_and_comes_back_at_the_new_process(start: Start) -> None:
    first = start().serving()
    with client.channel(first.socket) as channel:
        stub = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        stream = stub.ListAndWatch(deviceplugin_pb2.Empty())
        next(stream)
        start().serving()
        assert list(stream) == []
        next(stub.ListAndWatch(deviceplugin_pb2.Empty(), timeout=10))


def test_a_process_that_does_not_answer_is_named(start: Start) -> None:
    first = start().serving()
    first.popen.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    second = start("handover_timeout=0.5", "grace=0.5")
    assert second.popen.wait(30) == 2
    assert f"held by process {first.pid}" in second.text()
    first.popen.send_signal(signal.SIGCONT)
    assert first.who() == first.pid
