"""What callers were told: the volumes, snapshots and data that a daemon has acknowledged, and so must keep."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import Driver

CHUNK = 16 << 10
_ELSEWHERE_S = 60.0  # a namespace holds copies of all mounts, ours too, as long as it lives
FIRST = 1 << 20  # of a raw device: where the first chunk lies


@dataclass
class Content:
    """Chunks of data by number, that were written and fsynced. kind: "block", or a filesystem."""

    kind: str
    size: int
    chunks: dict[int, str] = field(default_factory=dict)

    def write(self, path: Path, number: int) -> str:
        """Write a chunk durably; returns its digest."""
        data = os.urandom(CHUNK)
        raw = self.kind == "block"
        fd = os.open(path if raw else path / f"chunk-{number}", os.O_WRONLY | (0 if raw else os.O_CREAT), 0o600)
        try:
            os.pwrite(fd, data, FIRST + number * CHUNK if raw else 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        return hashlib.sha256(data).hexdigest()

    def damage(self, path: Path) -> list[str]:
        """What is not as it was written."""
        return [f"chunk {number}" for number, digest in self.chunks.items() if self._read(path, number) != digest]

    def _read(self, path: Path, number: int) -> str:
        raw = self.kind == "block"
        try:
            fd = os.open(path if raw else path / f"chunk-{number}", os.O_RDONLY)
        except OSError:
            return "missing"
        try:
            return hashlib.sha256(os.pread(fd, CHUNK, FIRST + number * CHUNK if raw else 0)).hexdigest()
        finally:
            os.close(fd)


@dataclass
class Told:
    """Acknowledged: volumes and snapshots by id. going: a delete was asked for; gone: it was acknowledged."""

    volumes: dict[str, Content] = field(default_factory=dict)
    snapshots: dict[str, Content] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)


class Ledger:
    """Kept by many threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._told = Told()

    @contextmanager
    def open(self) -> Iterator[Told]:
        """To read it or to write into it."""
        with self._guard:
            yield self._told

    def copy(self) -> Told:
        """As it is now."""
        with self._guard:
            return copy.deepcopy(self._told)


def staging(driver: Driver, volume: str) -> Path:
    """Where a volume is staged."""
    return driver.root / "kubelet" / "plugins" / volume


def target(driver: Driver, volume: str) -> Path:
    """Where it is published."""
    return driver.pods / volume


def use(driver: Driver, volume: str, kind: str) -> Path:
    """Stage and publish a volume; returns where it is."""
    staging(driver, volume).mkdir(exist_ok=True)
    driver.stage(volume, kind, staging(driver, volume))
    driver.publish(volume, kind, target(driver, volume), staging=staging(driver, volume))
    return target(driver, volume)


def put_away(driver: Driver, volume: str) -> None:
    """Unpublish and unstage it, whether or not it is in use."""
    driver.unpublish(volume, target(driver, volume))
    patiently(lambda: driver.unstage(volume, staging(driver, volume)))
    if staging(driver, volume).exists():
        staging(driver, volume).rmdir()


def patiently(call: Callable[[], object]) -> None:
    """Ask again while the kernel still shows a device in a mount namespace that somebody else has just made."""
    until = time.monotonic() + _ELSEWHERE_S
    while True:
        try:
            call()
        except grpc.RpcError as error:
            if "another mount namespace" not in (error.details() or "") or time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def listed(driver: Driver) -> dict[str, int]:
    """The volumes with their sizes."""
    answer = driver.controller.ListVolumes(pb.ListVolumesRequest(), timeout=30)
    return {entry.volume.volume_id: entry.volume.capacity_bytes for entry in answer.entries}


def listed_snapshots(driver: Driver) -> set[str]:
    """The snapshots."""
    answer = driver.controller.ListSnapshots(pb.ListSnapshotsRequest(), timeout=30)
    return {entry.snapshot.snapshot_id for entry in answer.entries}


def can(driver: Driver, *names: str) -> bool:
    """Whether the controller advertises all of these capabilities."""
    kinds = pb.ControllerServiceCapability.RPC.Type
    answer = driver.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest(), timeout=30)
    return {kinds.Value(name) for name in names} <= {capability.rpc.type for capability in answer.capabilities}


def snapshot(driver: Driver, volume: str, name: str) -> str:
    """CreateSnapshot; returns its id."""
    request = pb.CreateSnapshotRequest(source_volume_id=volume, name=name)
    answer = driver.controller.CreateSnapshot(request, timeout=60)
    assert answer.snapshot.ready_to_use
    return answer.snapshot.snapshot_id


def copied(driver: Driver, source: str, content: Content, name: str) -> str:
    """CreateVolume from a snapshot or a volume; returns its id."""
    from tests.system.csi.kit import capability

    request = pb.CreateVolumeRequest(name=name, volume_capabilities=[capability(content.kind)])
    request.capacity_range.required_bytes = content.size
    if source.startswith("snap-"):
        request.volume_content_source.snapshot.snapshot_id = source
    else:
        request.volume_content_source.volume.volume_id = source
    volume = driver.controller.CreateVolume(request, timeout=60).volume.volume_id
    driver.tokens.add(volume.partition(".")[0])
    return volume
