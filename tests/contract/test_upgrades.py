"""Fifty upgrades of the real daemons under eight continuous callers: no call fails, no registration is touched.

No client retry, no wait_for_ready. An embedded kubelet watches the registration socket of csi meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2, csi_pb2_grpc
from plugins.api.kms.v2 import kms_pb2, kms_pb2_grpc
from plugins.core.sockets import file_identity
from plugins.lab.kubelet import Kubelet
from tests.contract.callers import Callers
from tests.processes import Process

HANDOVERS = 50
CALLERS = 8
RELIEVED = "the new process is ready; this one waits for SIGTERM and touches nothing"

Call = Callable[[grpc.Channel], None]


def status_and_round_trip(channel: grpc.Channel) -> None:
    """What kube-apiserver does, in one."""
    stub = kms_pb2_grpc.KeyManagementServiceStub(channel)
    stub.Status(kms_pb2.StatusRequest(), timeout=30, metadata=(("nodeplug-observe", "1"),))
    sealed = stub.Encrypt(kms_pb2.EncryptRequest(plaintext=b"s" * 32, uid="u"), timeout=30)
    request = kms_pb2.DecryptRequest(
        ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u", annotations=sealed.annotations
    )
    assert stub.Decrypt(request, timeout=30).plaintext == b"s" * 32


def probe_and_list(channel: grpc.Channel) -> None:
    """A quick call, and one that reads the store."""
    csi_pb2_grpc.IdentityStub(channel).Probe(csi_pb2.ProbeRequest(), timeout=30)
    csi_pb2_grpc.ControllerStub(channel).ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30)


@pytest.fixture
def start(short_tmp: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def run(*command: str) -> Process:
        log = short_tmp / f"log.{len(processes)}"
        processes.append(Process([sys.executable, "-m", "plugins", *command], log))
        return processes[-1].serving()

    yield run
    for process in processes:
        process.kill()


def upgrade_many_times(begin: Callable[[], Process], socket: Path, call: Call, *, shared: bool) -> int:
    """Returns the number of calls that were made meanwhile; all of them succeeded."""
    current = begin()
    identity = file_identity(socket)
    with Callers(socket, call, CALLERS, shared=shared) as callers:
        for _ in range(HANDOVERS):
            successor = begin()
            current.wait_for(RELIEVED)
            assert current.stop() == 0
            current = successor
    assert callers.failures == []
    assert min(callers.calls) > 0
    assert file_identity(socket) == identity
    assert current.stop() == 0
    return sum(callers.calls)


channels = pytest.mark.parametrize("shared", [True, False], ids=["one shared channel", "a channel each"])


@channels
@pytest.mark.timeout(600)
def test_kms(start: Callable[..., Process], short_tmp: Path, shared: bool) -> None:
    keyring, socket = short_tmp / "keys" / "keyring.json", short_tmp / "kms.sock"
    keyring.parent.mkdir(mode=0o700)
    subprocess.run([sys.executable, "-m", "plugins", "kms", "init", "--keyring", keyring], check=True)
    options = ["--state-dir", str(short_tmp / "s"), "--socket", str(socket), "--set", f"keyring={keyring}"]
    calls = upgrade_many_times(lambda: start("kms", "serve", *options), socket, status_and_round_trip, shared=shared)
    print(f"kms: {HANDOVERS} hand-overs, {calls} rounds of three calls, 0 failed")


@channels
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the csi daemon mounts its pool")
def test_csi(start: Callable[..., Process], short_tmp: Path, shared: bool) -> None:
    with Kubelet(short_tmp / "k") as kubelet, pool_of(short_tmp, kubelet) as options:
        socket = kubelet.root / "plugins/local.csi.nodeplug.internal/csi.sock"
        registration = kubelet.root / "plugins_registry/local.csi.nodeplug.internal-reg.sock"
        first = file_identity(registration)
        calls = upgrade_many_times(lambda: start("csi", "serve", *options), socket, probe_and_list, shared=shared)
        assert first is None
        assert file_identity(registration) is not None
        kubelet.wait_registered("local.csi.nodeplug.internal", timeout=5)
        assert [e for e in kubelet.journal.events() if e.kind == "unregister"] == []
        print(f"csi: {HANDOVERS} hand-overs, {calls} rounds of two calls, 0 failed, 0 unregister events")


@contextlib.contextmanager
def pool_of(root: Path, kubelet: Kubelet) -> Iterator[list[str]]:
    """Options for a csi daemon with an embedded pool, which a killed daemon leaves mounted."""
    pool = root / "pool"
    options = ["--kubelet-dir", str(kubelet.root), "--state-dir", str(root / "s")]
    try:
        yield [*options, "--set", f"pool={pool}", "--set", "embedded_size=1GiB", "--set", "node_id=here"]
    finally:
        image = pool.with_name("pool.img")
        devices = subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout
        if pool.is_mount():  # an orderly stop without staged volumes has unmounted it
            subprocess.run(["umount", pool], check=True)
        for line in devices.splitlines():
            subprocess.run(["losetup", "-d", line.partition(":")[0]], check=True)
