"""A daemon's life as its callers and its operator see it, over real sockets and processes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2, deviceplugin_pb2_grpc
from plugins.api.kms.v2 import kms_pb2
from plugins.api.pluginregistration.v1 import pluginregistration_pb2, pluginregistration_pb2_grpc
from plugins.core import client
from tests.contract.core.conftest import PLUGIN, ROOT, Process, code

Start = Callable[..., Process]


def test_it_serves_with_the_configured_mode_and_leaves_nothing_at_a_stop(start: Start) -> None:
    process = start("socket_mode=0660").serving()
    assert process.who() == process.pid
    assert stat.S_IMODE(process.socket.stat().st_mode) == 0o660
    assert [p.name for p in process.socket.parent.iterdir()] == ["echo.sock"]
    assert process.stop() == 0
    assert not process.socket.exists()
    assert process.registration_socket.is_socket()  # keep=True: its removal would deregister


def test_the_kubelet_asks_and_is_answered_from_the_same_server(start: Start) -> None:
    process = start().serving()
    with client.channel(process.registration_socket) as channel:
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info = stub.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=5)
        assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "echo.test.internal", str(process.socket))
        stub.NotifyRegistrationStatus(pluginregistration_pb2.RegistrationStatus(plugin_registered=True), timeout=5)
    process.wait_for("registered with the kubelet")


def test_kill_9_leaves_a_stale_socket_that_the_next_start_replaces(start: Start) -> None:
    first = start().serving()
    first.stop(signal.SIGKILL)
    assert first.socket.is_socket()
    second = start().serving()
    assert second.who() == second.pid


def test_a_stop_finishes_the_call_under_way(start: Start) -> None:
    process = start().serving()
    with process.kms() as stub:
        call = stub.Encrypt.future(kms_pb2.EncryptRequest(uid="0.5"), timeout=20)
        stub.Status(kms_pb2.StatusRequest(), timeout=5)
        assert process.stop() == 0
        assert call.result().key_id == str(process.pid)


def test_a_second_signal_ends_at_once(start: Start) -> None:
    process = start("grace=60", "stop_deadline=60").serving()
    with process.kms() as stub:
        call = stub.Encrypt.future(kms_pb2.EncryptRequest(uid="60"), timeout=100)
        stub.Status(kms_pb2.StatusRequest(), timeout=5)
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(0.5)
        assert process.stop() == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError):
            call.result()


def test_a_stop_that_hangs_is_cut_at_the_deadline(start: Start) -> None:
    process = start("grace=60", "stop_deadline=1").serving()
    with process.kms() as stub:
        call = stub.Encrypt.future(kms_pb2.EncryptRequest(uid="60"), timeout=100)
        stub.Status(kms_pb2.StatusRequest(), timeout=5)
        assert process.stop() == 1
        assert not call.done() or call.exception() is not None
    assert "stop_deadline" in process.text()


def test_a_lost_socket_is_made_again(start: Start) -> None:
    process = start().serving()
    process.socket.unlink()
    process.wait_for("a public socket was lost and has been made again")
    assert process.who() == process.pid


def test_a_socket_that_another_one_put_in_our_place_is_not_deleted(start: Start) -> None:
    process = start().serving()
    process.popen.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    process.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(process.socket))
        other.listen()
        process.popen.send_signal(signal.SIGTERM)
        process.popen.send_signal(signal.SIGCONT)
        process.popen.wait(20)
        assert process.socket.is_socket()


def test_a_regular_file_at_the_path_is_left_alone(start: Start, short_tmp: Path) -> None:
    path = short_tmp / "k/plugins/echo.test.internal/echo.sock"
    path.parent.mkdir(parents=True)
    path.write_text("somebody's")
    process = start()
    assert process.popen.wait(20) == 2
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize("name", ["x" * 108, "y" * 200])
def test_a_path_that_is_too_long_is_said_before_anything_starts(short_tmp: Path, name: str) -> None:
    done = subprocess.run(
        serve_command(short_tmp, "--socket", f"/tmp/{name}"),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2
    assert "107" in done.stderr
    assert list(short_tmp.iterdir()) == []


def test_errors_reach_the_caller_as_status_and_defects_do_not_leak(start: Start) -> None:
    process = start().serving()
    with process.kms() as stub:
        for kind, expected in [("NotFound", "NOT_FOUND"), ("Aborted", "ABORTED"), ("DataLoss", "DATA_LOSS")]:
            with pytest.raises(grpc.RpcError) as error:
                stub.Decrypt(kms_pb2.DecryptRequest(key_id=kind), timeout=5)
            assert client.reason(error.value) == f"{expected}: for the caller"
        with pytest.raises(grpc.RpcError) as error:
            stub.Decrypt(kms_pb2.DecryptRequest(key_id="nothing"), timeout=5)
    assert code(error.value) == "INTERNAL"
    assert "no caller may read" not in client.reason(error.value)
    request = client.reason(error.value).rpartition(" ")[2]
    (line,) = [x for x in process.lines() if x.get("request") == request and x["level"] == "error"]
    assert "no caller may read" in line["error"]


def test_a_method_that_was_left_out_is_unimplemented(start: Start) -> None:
    process = start().serving()
    with client.channel(process.socket) as channel, pytest.raises(grpc.RpcError) as error:
        deviceplugin_pb2_grpc.DevicePluginStub(channel).GetDevicePluginOptions(deviceplugin_pb2.Empty(), timeout=5)
    assert code(error.value) == "UNIMPLEMENTED"


def test_open_streams_take_no_worker_from_unary_calls(start: Start) -> None:
    process = start("workers=2").serving()
    with client.channel(process.socket) as channel, process.kms() as stub:
        devices = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        streams = [devices.ListAndWatch(deviceplugin_pb2.Empty()) for _ in range(10)]
        for stream in streams:
            next(stream)  # each is served, so each holds a thread
        started = time.perf_counter()
        stub.Status(kms_pb2.StatusRequest(), timeout=5)
        assert time.perf_counter() - started < 2
        process.popen.send_signal(signal.SIGTERM)
        for stream in streams:
            assert list(stream) == []  # ended by the daemon, with status OK
    assert process.popen.wait(20) == 0


def test_a_changed_file_is_taken_or_refused_as_a_whole(short_tmp: Path, start: Start) -> None:
    process = start("label=one").serving()
    with process.kms() as stub:
        assert stub.Status(kms_pb2.StatusRequest(), timeout=5).version == "one"
    process.stop()

    file = short_tmp / "echo.toml"
    file.write_text('label = "two"\n')
    process.log = short_tmp / "log.file"
    with process.log.open("wb") as log:
        process.popen = subprocess.Popen(
            serve_command(short_tmp, "--config", str(file)), stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    try:
        process.serving()
        replace(file, 'label = "bad"\n')
        process.wait_for("the changed configuration was not taken; the old one stays in force")
        replace(file, 'label = "three"\n')
        process.wait_for("the changed configuration is in force")
        with process.kms() as stub:
            assert stub.Status(kms_pb2.StatusRequest(), timeout=5).version == "three"
    finally:
        process.popen.kill()
        process.popen.wait()


def serve_command(root: Path, *options: str) -> list[str]:
    folders = ["--kubelet-dir", str(root / "k"), "--state-dir", str(root / "s")]
    return [sys.executable, str(PLUGIN), "serve", *folders, *options]


def replace(file: Path, text: str) -> None:
    """As editors and ConfigMaps do: a new file over the old name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def test_a_caller_that_is_not_allowed_gets_no_answer(start: Start) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: acts as another user")
    process = start("socket_mode=0666").serving()
    for folder in (process.root, process.root / "k", process.root / "k/plugins", process.socket.parent):
        folder.chmod(0o755)
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(process.socket)!r}); print(s.recv(1))"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", program],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    if "ermission" in done.stderr and "python" in done.stderr:
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", program],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert "b''" in done.stdout or "ConnectionResetError" in done.stderr, done.stderr
    assert process.who() == process.pid


def test_the_log_says_which_user_called_and_connections_are_told_apart(start: Start) -> None:
    process = start().serving()
    with process.kms() as one, process.kms() as other:
        peers = {
            stub.Encrypt(kms_pb2.EncryptRequest(uid="0"), timeout=5).annotations["peer.test"] for stub in (one, other)
        }
    assert len(peers) == 2
    calls = [line for line in process.lines() if line["message"] == "call"]
    assert {line["uid"] for line in calls} == {os.geteuid()}


def test_many_callers_at_once(start: Start) -> None:
    process = start().serving()
    with process.kms() as stub, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: stub.Encrypt(kms_pb2.EncryptRequest(uid="0"), timeout=20), range(200)))
    assert {a.key_id for a in answers} == {str(process.pid)}
