"""What a plugin's server sees of the lab's connections."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import grpc
import pytest

from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as pb
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as rpc
from plugins.lab.channels import LOCALHOST, channel, dial, path_authority
from plugins.lab.errors import LabError

_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # an empty HTTP/2 SETTINGS frame


def first_headers(path: Path, authority: str) -> bytes:
    """The bytes that a caller sends up to its first request."""
    with socket.socket(socket.AF_UNIX) as listener, channel(path, authority=authority) as connection:
        listener.bind(str(path))
        listener.listen()
        call = rpc.RegistrationStub(connection).GetInfo.future(pb.InfoRequest(), timeout=10, wait_for_ready=True)
        listener.settimeout(10)
        server, _ = listener.accept()
        with server:
            server.settimeout(10)
            server.sendall(_SETTINGS)
            data = b""
            while authority.encode() not in data and (more := server.recv(65536)):
                data += more
            call.cancel()
            return data


@pytest.mark.parametrize("authority", [LOCALHOST, "%2Ftmp%2Fx%2Freg.sock"])
def test_the_authority_is_the_one_that_the_real_caller_sends(folder: Path, authority: str) -> None:
    assert authority.encode() in first_headers(folder / "s.sock", authority)


def test_a_path_becomes_an_authority_as_grpc_go_encodes_it() -> None:
    assert path_authority(Path("/var/lib/kubelet/a b:c@d.sock")) == "%2Fvar%2Flib%2Fkubelet%2Fa%20b:c@d.sock"


def test_a_dial_waits_for_a_socket_that_comes_later(folder: Path) -> None:
    made: list[grpc.Channel] = []
    thread = threading.Thread(target=lambda: made.append(dial(folder / "late.sock", timeout=10)))
    thread.start()
    server = grpc.server(None)  # type: ignore[arg-type]
    server.add_insecure_port(f"unix:{folder / 'late.sock'}")
    server.start()
    thread.join()
    made[0].close()
    server.stop(None).wait()


def test_a_dial_gives_up(folder: Path) -> None:
    with pytest.raises(LabError, match="failed to dial socket"):
        dial(folder / "nobody.sock", timeout=0.1)
