"""Rotation while the API server works: no label is ever wrong, and nothing becomes unreadable."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.kms import observe
from tests.contract.kms.daemon_kit import KmsDaemon, daemon, run

SEED = os.urandom(32)
ROTATIONS = 20
CALLERS = 8


class ApiServer:
    """The provider's probe as kube-apiserver runs it (one at a time, by a mutex) and readers beside it."""

    def __init__(self, kms: KmsDaemon) -> None:
        self._kms = kms
        self._probe = threading.Lock()
        self._stop = threading.Event()
        self.made: list[pb.EncryptResponse] = []
        self.mismatches = 0
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guarded, args=(self._work,)) for _ in range(CALLERS)]
        self._threads += [threading.Thread(target=self._guarded, args=(look,)) for look in (self._look, self._tool)]

    def __enter__(self) -> ApiServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, step: object) -> None:
        try:
            step()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - the test's thread shows it
            self.failures.append(error)

    def _work(self) -> None:
        client = self._kms.client()
        while not self._stop.is_set():
            with self._probe:
                announced = client.status().key_id
                sealed = client.encrypt(SEED)
            if sealed.key_id != announced:
                self.mismatches += 1
            self.made.append(sealed)
            assert client.decrypt(sealed) == SEED

    def _look(self) -> None:
        while not self._stop.is_set():
            assert observe.problems(observe.look(self._kms.socket, 10).status) == []

    def _tool(self) -> None:
        while not self._stop.is_set():
            done = run("status", str(self._kms.socket))
            assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_twenty_rotations_under_load(kms: KmsDaemon) -> None:
    watcher = kms.start()
    with ApiServer(kms) as server:
        for _ in range(ROTATIONS):
            wanted = kms.rotate()
            while watcher.look().key_id != wanted and not server.failures:
                pass
    assert server.failures == []
    assert server.mismatches == 0
    assert len({sealed.key_id for sealed in server.made}) > 1
    assert all(watcher.decrypt(sealed) == SEED for sealed in server.made[:: max(1, len(server.made) // 500)])


def test_a_rotation_between_status_and_encrypt(kms: KmsDaemon) -> None:
    client = kms.start()
    before = client.status().key_id
    after = kms.rotate()
    kms.took(2)
    assert run("status", str(kms.socket)).returncode == 0
    assert client.encrypt(SEED).key_id == before  # looks announced nothing
    assert client.status().key_id == after
    assert client.encrypt(SEED).key_id == after


def test_two_nodes_never_meet_a_key_they_cannot_read(kms: KmsDaemon, short_tmp: Path) -> None:
    """Stage, copy, activate, copy: at each moment each node reads what any other writes."""
    root = short_tmp / "second"
    root.mkdir()
    with daemon(root) as other:
        other.keyring.write_bytes(kms.keyring.read_bytes())
        clients = [kms.start(), other.start()]
        made = [client.encrypt(SEED) for client in clients]
        for generation, step in ((2, "--stage"), (3, "--activate")):
            kms.rotate(step)
            for _ in range(2):  # before the copy, and after it
                made += [client.encrypt(SEED) for client in clients]
                assert all(client.decrypt(sealed) == SEED for client in clients for sealed in made)
                other.keyring.write_bytes(kms.keyring.read_bytes())
            for node in (kms, other):
                node.took(generation)
            for client in clients:
                client.status()
            made += [client.encrypt(SEED) for client in clients]
        assert len({sealed.key_id for sealed in made}) == 2
