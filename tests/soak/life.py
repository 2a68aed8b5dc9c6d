"""The whole life of volumes and snapshots against a model, with a daemon that is killed at any of its fault points.

Every call is repeated until it is answered; a call that was cut off by a kill must succeed when it is repeated. After
each step the machine has exactly what the model says: volumes, snapshots, images, devices, mounts, data.
"""

from __future__ import annotations

import collections
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from tests.soak import ledger
from tests.soak.ledger import Content
from tests.system.csi.kit import SIZES, Driver, refused

T = TypeVar("T")
SETTINGS = ("expansion=controller", "overcommit=16", "reserve=64MiB")
KINDS = ("block", "ext4", "xfs")
_STEP = 8 << 20  # bytes that a volume grows by
_MOST_CHUNKS = 12
_TRIES = 4


@dataclass
class Known:
    """A volume as it should be."""

    id: str
    name: str
    content: Content
    staged: bool = False
    published: bool = False
    read_only: bool = False


@dataclass
class Figures:
    """What happened."""

    steps: collections.Counter[str] = field(default_factory=collections.Counter)
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    checked: int = 0

    def __str__(self) -> str:
        return (
            f"walk: {self.steps.total()} steps, {self.kills.total()} kills at {len(self.kills)} points, "
            f"{self.checked} chunks checked, 0 losses"
        )


class Life:
    """One daemon and the model of what it keeps. Everything that does not fit is an AssertionError."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.volumes: list[Known] = []
        self.snapshots: dict[str, Content] = {}
        self.figures = Figures()
        self.history: collections.deque[str] = collections.deque(maxlen=60)
        self._made = 0
        self._fault = ""
        self._about: Known | None = None  # the volume of the call under way, which is neither as before nor as after

    def arm(self, fault: str) -> None:
        """Kill the daemon now; the next one kills itself at this point."""
        self.figures.kills["at rest"] += 1
        self._restart(fault)

    def faults(self, step: str, volume: Known | None = None) -> Sequence[str]:
        """The points that a step may pass."""
        raw = volume is not None and volume.content.kind == "block"
        view = raw and volume is not None and volume.read_only
        return {
            "create": points.CREATE,
            "copy": points.CREATE,
            "delete": points.DELETE,
            "stage": points.STAGE_BLOCK if raw else (*points.STAGE_MOUNT, *points.GROW),
            "publish": points.PUBLISH_VIEW if raw else points.PUBLISH,
            "unpublish": points.UNPUBLISH_VIEW if view else points.UNPUBLISH,
            "unstage": points.UNSTAGE_BLOCK,
            "grow": points.EXPAND_BLOCK if raw else points.EXPAND_MOUNT,
            "snapshot": points.SNAPSHOT,
            "delete_snapshot": points.SNAPSHOT_DELETE,
        }.get(step, points.CREATE)

    def create(self, kind: str) -> None:
        """A new volume."""
        name = self._name("volume")
        volume = self._call("create", lambda: self.driver.create(kind, name))
        self.volumes.append(Known(volume, name, Content(kind, SIZES[kind])))

    def copy(self, source: str, content: Content) -> None:
        """A volume that begins as a copy of a snapshot or of a volume."""
        name = self._name("copy")
        held = Content(content.kind, content.size, dict(content.chunks))
        volume = self._call("copy", lambda: ledger.copied(self.driver, source, held, name))
        self.volumes.append(Known(volume, name, held))

    def stage(self, volume: Known) -> None:
        """Make it ready, again or for the first time."""
        path = ledger.staging(self.driver, volume.id)
        path.mkdir(exist_ok=True)
        self._call("stage", lambda: self.driver.stage(volume.id, volume.content.kind, path), volume)
        volume.staged = True

    def publish(self, volume: Known, *, read_only: bool = False) -> None:
        """Show it; a volume that is shown already is shown again in the same way."""
        volume.read_only = volume.read_only if volume.published else read_only
        path, staging = ledger.target(self.driver, volume.id), ledger.staging(self.driver, volume.id)
        kind, only = volume.content.kind, volume.read_only
        self._call(
            "publish",
            lambda: self.driver.publish(volume.id, kind, path, staging=staging, read_only=only),
            volume,
        )
        volume.published = True
        self._look(volume)

    def write(self, volume: Known) -> None:
        """Write where it is shown; a read-only one refuses."""
        path = ledger.target(self.driver, volume.id)
        number = len(volume.content.chunks) % _MOST_CHUNKS
        if volume.read_only:
            try:
                volume.content.write(path, number)
            except OSError:
                return
            raise AssertionError(f"{volume} was written to")
        volume.content.chunks[number] = volume.content.write(path, number)
        self.figures.steps["write"] += 1

    def unpublish(self, volume: Known) -> None:
        """No longer show it."""
        path = ledger.target(self.driver, volume.id)
        self._call("unpublish", lambda: self.driver.unpublish(volume.id, path), volume)
        volume.published = False

    def unstage(self, volume: Known) -> None:
        """Put it away."""
        path = ledger.staging(self.driver, volume.id)
        ledger.patiently(lambda: self._call("unstage", lambda: self.driver.unstage(volume.id, path), volume))
        volume.staged = False
        path.rmdir()

    def delete(self, volume: Known) -> None:
        """Delete it; one that is in use stays."""
        if volume.staged:
            with refused(grpc.StatusCode.FAILED_PRECONDITION):
                self._call("refused", lambda: self.driver.delete(volume.id))
            return
        self._call("delete", lambda: self.driver.delete(volume.id), volume)
        self.volumes.remove(volume)

    def grow(self, volume: Known) -> None:
        """Make it larger, and show that where it is in use."""
        request = pb.ControllerExpandVolumeRequest(volume_id=volume.id)
        request.capacity_range.required_bytes = volume.content.size + _STEP
        answer = self._call("grow", lambda: self.driver.controller.ControllerExpandVolume(request, timeout=60))
        assert answer.capacity_bytes == request.capacity_range.required_bytes
        volume.content.size = answer.capacity_bytes
        if not (volume.published and answer.node_expansion_required):
            return
        path = str(ledger.target(self.driver, volume.id))
        follow = pb.NodeExpandVolumeRequest(volume_id=volume.id, volume_path=path)
        try:
            self._call("grow", lambda: self.driver.node.NodeExpandVolume(follow, timeout=60))
        except grpc.RpcError as error:  # not every kernel lets us grow a mounted ext4, and nothing grows read-only
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error

    def snapshot(self, volume: Known) -> None:
        """Keep it as it is now."""
        name = self._name("snapshot")
        held = Content(volume.content.kind, volume.content.size, dict(volume.content.chunks))
        self.snapshots[self._call("snapshot", lambda: ledger.snapshot(self.driver, volume.id, name))] = held

    def delete_snapshot(self, snapshot: str) -> None:
        """Keep it no longer."""
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot)
        self._call("delete_snapshot", lambda: self.driver.controller.DeleteSnapshot(request, timeout=60))
        del self.snapshots[snapshot]

    def check(self) -> None:
        """The machine has what the model says, and nothing else."""
        driver = self.driver
        assert ledger.listed(driver) == {volume.id: volume.content.size for volume in self.volumes}
        assert ledger.listed_snapshots(driver) == set(self.snapshots)
        assert driver.images() == sorted(f"{volume.id.partition('.')[0]}.img" for volume in self.volumes)
        shots = sorted(f"{snapshot.partition('.')[0]}.img" for snapshot in self.snapshots)
        assert sorted(os.listdir(driver.pool / "snapshots")) == shots
        mounted = [v for v in self.volumes if v.staged and v.content.kind != "block"]
        shown = [volume for volume in self.volumes if volume.published]
        views = [volume for volume in shown if volume.read_only and volume.content.kind == "block"]
        assert len(driver.mounts()) == len(mounted) + len(shown)
        assert len(driver.loops()) == len([volume for volume in self.volumes if volume.staged]) + len(views)
        for volume in shown:
            self._look(volume)

    def finish(self) -> None:
        """Take everything away; nothing is left."""
        for volume in list(self.volumes):
            self.unpublish(volume)
            if volume.staged:
                self.unstage(volume)
            self.delete(volume)
        for snapshot in list(self.snapshots):
            self.delete_snapshot(snapshot)
        self.check()
        self.driver.assert_nothing_left()

    def _look(self, volume: Known) -> None:
        damage = volume.content.damage(ledger.target(self.driver, volume.id))
        assert damage == [], (volume, damage)
        self.figures.checked += len(volume.content.chunks)

    def _call(self, step: str, call: Callable[[], T], about: Known | None = None) -> T:
        """The answer of a call; one that a kill cut off is repeated."""
        self.figures.steps[step] += 1
        self.history.append(f"{step} {about or ''}")
        self._about = about
        for _ in range(_TRIES):
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                assert self.driver.process
                assert self.driver.process.popen.wait(10) == -signal.SIGKILL, self.driver.process.text()[-3000:]
                self.figures.kills[self._fault] += 1
                self._restart("")
        raise AssertionError(f"{step} was cut off {_TRIES} times")

    def _restart(self, fault: str) -> None:
        """A new daemon on what the old one left: what is in use is as it was, all that was acknowledged is listed."""
        self._fault = fault
        self.history.append(f"restart {fault}")
        assert self.driver.process
        self.driver.process.kill()
        self.driver.start(fault)
        there = set(ledger.listed(self.driver))
        for volume in self.volumes:
            if volume is not self._about:
                assert volume.id in there, volume
                if volume.published:
                    self._look(volume)

    def _name(self, what: str) -> str:
        self._made += 1
        return f"{what}-{self._made}"
