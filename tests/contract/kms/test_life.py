"""Start, reload, kill, stop: what the API server finds afterwards, and what an operator reads."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.contract.kms.daemon_kit import KmsDaemon, active, run

SEED = os.urandom(32)


def reasons(kms: KmsDaemon) -> list[str]:
    """Why keyrings were refused, so far."""
    return [line["reason"] for line in kms.log() if line["level"] == "error"]


def test_killed_and_started_again(kms: KmsDaemon) -> None:
    """The socket of the killed one is in the way of nothing, and a connected client just goes on."""
    client = kms.start()
    status, sealed = client.status(), client.encrypt(SEED)
    kms.end(signal.SIGKILL)
    assert kms.socket.exists()
    kms.start()
    client.look()  # reconnects
    assert client.decrypt(sealed) == SEED
    assert client.status() == status
    assert client.encrypt(SEED).key_id == status.key_id


def test_rotated_while_it_was_down(kms: KmsDaemon) -> None:
    client = kms.start()
    sealed = client.encrypt(SEED)
    kms.end(signal.SIGKILL)
    wanted = kms.rotate()
    kms.start()
    client.look()
    assert client.status().key_id == wanted
    assert client.decrypt(sealed) == SEED


def test_a_stop_is_clean(kms: KmsDaemon) -> None:
    kms.start()
    assert kms.end(signal.SIGTERM) == 0
    assert not kms.socket.exists()
    assert [line for line in kms.log() if line["level"] in ("warning", "error")] == []


def test_no_start_without_a_usable_keyring(kms: KmsDaemon) -> None:
    kms.keyring.chmod(0o644)
    where = ("--state-dir", str(kms.socket.parent / "s"), "--socket", str(kms.socket))
    for command in ("serve", "check-config"):
        done = run(command, *where, "--set", f"keyring={kms.keyring}")
        assert done.returncode == 2
        assert f"chmod 0600 {kms.keyring}" in done.stderr
    assert not kms.socket.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text("{"), "not a valid keyring"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "not a valid keyring"),
        (lambda path: path.chmod(0o644), "chmod 0600"),
        (lambda path: path.unlink(), "there is no keyring"),
    ],
    ids=["garbage", "truncated", "mode", "missing"],
)
def test_a_bad_keyring_changes_nothing_until_it_is_mended(kms: KmsDaemon, damage: object, reason: str) -> None:
    client = kms.start()
    sealed, good = client.encrypt(SEED), kms.keyring.read_bytes()
    damage(kms.keyring)  # type: ignore[operator]
    while not reasons(kms):
        assert client.status().key_id == sealed.key_id
    assert reason in reasons(kms)[0]
    assert client.decrypt(sealed) == SEED
    kms.keyring.write_bytes(good)
    kms.keyring.chmod(0o600)
    wanted = kms.rotate()
    kms.took(2)
    assert client.status().key_id == wanted
    assert len(reasons(kms)) <= 2  # not a line for each look


def test_an_older_copy_is_not_put_in_force(kms: KmsDaemon) -> None:
    old = kms.keyring.read_bytes()
    wanted = kms.rotate()
    client = kms.start()
    kms.keyring.write_bytes(old)
    while not reasons(kms):
        pass
    assert "older copy" in reasons(kms)[0]
    assert client.status().key_id == wanted


def test_reload_by_many_changes_at_once(kms: KmsDaemon) -> None:
    """Only the last of a burst has to be seen; none in between may be half seen."""
    client = kms.start()
    made = []
    done = threading.Event()

    def encrypting() -> None:
        while not done.is_set():
            made.append(client.encrypt(SEED))

    thread = threading.Thread(target=encrypting)
    thread.start()
    try:
        for _ in range(5):
            kms.rotate()
        kms.took(6)
    finally:
        done.set()
        thread.join()
    assert client.look().key_id == active(kms.keyring)
    assert all(client.decrypt(sealed) == SEED for sealed in made)


def test_no_core_dump_and_keys_in_locked_pages(kms: KmsDaemon) -> None:
    kms.start()
    with open(f"/proc/{kms.pid}/limits") as limits:
        core = next(line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):  # not dumpable: closed to its own user too
            Path(f"/proc/{kms.pid}/smaps").read_text()
        return
    maps = Path(f"/proc/{kms.pid}/smaps").read_text().splitlines()
    flags = [set(line.split()[1:]) for line in maps if line.startswith("VmFlags:")]
    assert any({"lo", "dd", "dc"} <= found for found in flags)
