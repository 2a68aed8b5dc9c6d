"""KMS runs without root: a user of its own, root (the API server) as the caller, everybody else refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.kms.daemon_kit import ROOT, UNPRIVILEGED, KmsDaemon, as_user, daemon, run

SEED = os.urandom(32)


def _cannot() -> str:
    """Why this machine cannot start Python as another user; empty where it can."""
    if os.geteuid() != 0:
        return "needs root: starts the daemon as another user"
    if shutil.which("setpriv") is None:
        return "setpriv (util-linux) is not installed"
    code = [*as_user(UNPRIVILEGED), sys.executable, "-c", "import plugins.kms.wiring, grpc, cryptography"]
    done = subprocess.run(code, cwd=ROOT, capture_output=True)
    return "" if done.returncode == 0 else "the interpreter's folders are closed to other users"


pytestmark = pytest.mark.skipif(bool(_cannot()), reason=_cannot() or "-")


@pytest.fixture
def kms(short_tmp: Path) -> Iterator[KmsDaemon]:
    short_tmp.chmod(0o755)
    with daemon(short_tmp, uid=UNPRIVILEGED) as made:
        yield made


def test_everything_works_without_privileges(kms: KmsDaemon) -> None:
    client = kms.start()
    with open(f"/proc/{kms.pid}/status") as status:
        told = dict(line.split(":", 1) for line in status)
    assert told["Uid"].split() == [str(UNPRIVILEGED)] * 4
    assert {told[name].strip() for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    sealed = client.encrypt(SEED)
    assert client.decrypt(sealed) == SEED
    wanted = kms.rotate()  # by root: the file stays the daemon's
    assert kms.keyring.stat().st_uid == UNPRIVILEGED
    kms.took(2)
    assert client.status().key_id == wanted
    assert client.decrypt(sealed) == SEED
    kms.end(signal.SIGKILL)
    kms.start()
    client.look()
    assert client.decrypt(sealed) == SEED
    assert kms.end() == 0


def test_rotated_by_the_daemons_own_user(kms: KmsDaemon) -> None:
    kms.start()
    done = run("rotate", "--keyring", str(kms.keyring), prefix=as_user(UNPRIVILEGED))
    assert done.returncode == 0, done.stderr
    kms.took(2)


def test_an_upgrade_without_privileges_loses_no_call(kms: KmsDaemon) -> None:
    """The hand-over passes descriptors between two processes that nobody may trace."""
    client = kms.start()
    sealed = client.encrypt(SEED)
    failed: list[BaseException] = []
    stop = threading.Event()

    def calling() -> None:
        try:
            while not stop.is_set():
                assert client.decrypt(sealed) == SEED
        except BaseException as error:  # noqa: BLE001 - the test's thread shows it
            failed.append(error)

    thread = threading.Thread(target=calling)
    thread.start()
    try:
        kms.upgrade()
    finally:
        stop.set()
        thread.join()
    assert failed == []
    assert client.status().key_id == sealed.key_id


def test_memory_is_closed_to_other_processes_of_that_user(kms: KmsDaemon) -> None:
    kms.start()
    code = f"open('/proc/{kms.pid}/mem', 'rb')"
    done = subprocess.run([*as_user(UNPRIVILEGED), sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in done.stderr


def test_another_user_gets_no_answer(kms: KmsDaemon) -> None:
    """The socket is opened to all here, so that it is the peer check that refuses."""
    client = kms.start("--set", "socket_mode=0666")
    kms.socket.parent.chmod(0o755)
    done = run("status", str(kms.socket), prefix=as_user(UNPRIVILEGED + 1))
    assert done.returncode == 3
    assert client.status().key_id not in done.stdout + done.stderr


def test_a_stranger_cannot_read_or_rotate(kms: KmsDaemon) -> None:
    for command in ("keys", "rotate"):
        done = run(command, "--keyring", str(kms.keyring), prefix=as_user(UNPRIVILEGED + 1))
        assert done.returncode == 2
        assert "np1." not in done.stdout
