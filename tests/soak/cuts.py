"""Power cuts at random moments under load: what was acknowledged before is there afterwards, whole."""

from __future__ import annotations

import collections
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.soak import ledger as ledgers
from tests.soak.disk import WAYS, Disk
from tests.soak.ledger import Content, Ledger, Told
from tests.system.csi.kit import SIZES, Driver

_CALLERS = 4
_MOST_S = 1.5  # of load before the power fails
_KEPT = 3  # volumes of a caller, the newest ones
_KINDS = ("block", "ext4", "ext4", "xfs")


@dataclass
class Figures:
    """What a run came to. lost: acknowledged and not there, or not whole; odd: whatever else should not be."""

    seed: int
    cuts: collections.Counter[str] = field(default_factory=collections.Counter)
    checked: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ways = ", ".join(f"{way} {self.cuts[way]}" for way in WAYS)
        checked = ", ".join(f"{count} {what}" for what, count in sorted(self.checked.items()))
        return (
            f"cuts: {self.cuts.total()} ({ways}), {len(self.lost)} losses, {len(self.odd)} oddities; "
            f"checked: {checked or 'nothing'}; {len(self.late)} chunks acknowledged during a cut were not kept "
            f"(seed {self.seed})"
        )

    @property
    def good(self) -> bool:
        return not (self.lost or self.odd)


class Plant:
    """A daemon on a disk whose power fails again and again."""

    def __init__(self, root: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self.figures = Figures(seed)
        self.driver = Driver(root, "expansion=controller", "overcommit=8", "reserve=64MiB")
        self.disk = Disk(root)

    def run(self, cuts: int, progress: Callable[[str], None] = lambda _: None) -> Figures:
        """Cut the power that many times, in both ways in turn."""
        self.driver.start()
        for number in range(cuts):
            self._cut(WAYS[number % len(WAYS)], number)
            if (number + 1) % 10 == 0:
                progress(str(self.figures))
        self.driver.stop()
        return self.figures

    def close(self) -> None:
        """End it all, also after a failure."""
        if self.driver.process:
            self.driver.process.kill()
        self.disk.close()

    def _cut(self, way: str, number: int) -> None:
        driver, ledger, stop = self.driver, Ledger(), threading.Event()
        callers = [_Caller(driver, ledger, stop, f"{number}-{n}", self._rng.random()) for n in range(_CALLERS)]
        threads = [threading.Thread(target=caller.run) for caller in callers]
        for thread in threads:
            thread.start()
        stop.wait(self._rng.uniform(0.02, _MOST_S))
        before = ledger.copy()
        self.disk.cut(way)
        self.figures.cuts[way] += 1
        if way == "image":
            stop.wait(self._rng.uniform(0, 0.2))  # the original lives on for a while: that never happened
        stop.set()
        assert driver.process
        driver.process.kill()
        for thread in threads:
            thread.join()
        after = ledger.copy()
        self.figures.odd += [f"cut {number} ({way}): {odd}" for caller in callers for odd in caller.odd]
        self.disk.power_on()
        driver.start()
        # What was acknowledged before the instant counts, unless somebody asked for its end since.
        self._check(before, after, f"cut {number} ({way})")
        if way == "shutdown":
            self._count_late(before, after, f"cut {number}")
        self._clear(number)

    def _check(self, told: Told, after: Told, cut: str) -> None:
        driver, figures = self.driver, self.figures
        there = ledgers.listed(driver)
        shots = ledgers.listed_snapshots(driver) if told.snapshots else set()
        figures.odd += [f"{cut}: {one} was deleted and is there" for one in told.gone & (set(there) | shots)]
        images = {f"{volume.partition('.')[0]}.img" for volume in there}
        if images != set(driver.images()):
            figures.odd.append(f"{cut}: images {sorted(images ^ set(driver.images()))} do not belong to the records")
        for volume, content in told.volumes.items():
            if volume not in after.going:
                self._check_volume(volume, content, there, f"{cut}: volume {volume} ({content.kind})")
        for shot, content in told.snapshots.items():
            if shot in after.going:
                continue
            figures.checked["snapshots"] += 1
            if shot not in shots:
                figures.lost.append(f"{cut}: snapshot {shot}")
                continue
            copy = ledgers.copied(driver, shot, content, f"of-{shot}")
            self._check_content(copy, content, f"{cut}: snapshot {shot} ({content.kind})")

    def _check_volume(self, volume: str, content: Content, there: dict[str, int], what: str) -> None:
        self.figures.checked["volumes"] += 1
        if there.get(volume, 0) < content.size:
            self.figures.lost.append(f"{what}: it has {there.get(volume)} bytes, {content.size} were acknowledged")
        elif content.chunks:
            self._check_content(volume, content, what)

    def _count_late(self, before: Told, after: Told, cut: str) -> None:
        """Chunks whose fsync returned in the very moment of the cut: XFS that is being stopped may say yes and mean no
        (a power cut leaves nobody to tell). Counted, and no loss.
        """
        for volume, content in before.volumes.items():
            later = after.volumes[volume]
            late = {number: digest for number, digest in later.chunks.items() if number not in content.chunks}
            if late and content.chunks and volume not in after.going:
                path = ledgers.target(self.driver, volume)
                damage = Content(later.kind, later.size, late).damage(path)
                self.figures.late += [
                    f"{cut}: {volume} ({later.kind}): {one} of {sorted(later.chunks)}" for one in damage
                ]

    def _check_content(self, volume: str, content: Content, what: str) -> None:
        try:
            path = ledgers.use(self.driver, volume, content.kind)
        except grpc.RpcError as error:
            self.figures.lost.append(f"{what}: {error.code().name}: {error.details()}")
            return
        self.figures.checked["chunks"] += len(content.chunks)
        self.figures.lost += [f"{what}: {damage}" for damage in content.damage(path)]

    def _clear(self, number: int) -> None:
        driver = self.driver
        for volume in ledgers.listed(driver):
            driver.tokens.add(volume.partition(".")[0])
            try:
                ledgers.put_away(driver, volume)
                driver.delete(volume)
            except grpc.RpcError as error:
                self.figures.odd.append(f"cut {number}: {volume} cannot be taken away: {error.details()}")
        if ledgers.can(driver, "CREATE_DELETE_SNAPSHOT"):
            for shot in ledgers.listed_snapshots(driver):
                driver.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=shot), timeout=60)
        left = [*driver.images(), *os.listdir(driver.pool / "snapshots"), *driver.loops(), *driver.mounts()]
        if left:
            self.figures.odd.append(f"cut {number}: left behind: {left}")
        for path in (driver.root / "kubelet" / "plugins").glob("vol-*"):
            path.rmdir()


class _Caller:
    """Makes volumes, writes, cuts snapshots and deletes, until the power fails."""

    def __init__(self, driver: Driver, ledger: Ledger, stop: threading.Event, name: str, seed: float) -> None:
        self._name = name
        self._driver = driver
        self._ledger = ledger
        self._stop = stop
        self._rng = random.Random(seed)
        self._snapshots = ledgers.can(driver, "CREATE_DELETE_SNAPSHOT", "CLONE_VOLUME")
        self.odd: list[str] = []

    def run(self) -> None:
        kept: list[str] = []
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                kept.append(self._life(f"{self._name}-{number}"))
                if len(kept) > _KEPT:
                    self._delete(kept.pop(0))
            except OSError:
                return  # a device without power
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.INTERNAL and "defect" in (error.details() or ""):
                    self.odd.append(f"{error.code().name}: {error.details()}")
                return

    def _life(self, name: str) -> str:
        driver, rng = self._driver, self._rng
        kind = rng.choice(_KINDS)
        volume = driver.create(kind, name)
        content = Content(kind, SIZES[kind])
        with self._ledger.open() as told:
            told.volumes[volume] = content
        path = ledgers.use(driver, volume, kind)
        for number in range(rng.randrange(1, 8)):
            digest = content.write(path, number)
            with self._ledger.open():
                content.chunks[number] = digest
        if kind == "block" and rng.random() < 0.5:
            self._grow(volume, content)
        if self._snapshots and rng.random() < 0.6:
            self._copies(volume, content, name)
        if rng.random() < 0.4:
            ledgers.put_away(driver, volume)
        return volume

    def _grow(self, volume: str, content: Content) -> None:
        request = pb.ControllerExpandVolumeRequest(volume_id=volume)
        request.capacity_range.required_bytes = content.size + (8 << 20)
        answer = self._driver.controller.ControllerExpandVolume(request, timeout=60)
        with self._ledger.open():
            content.size = answer.capacity_bytes

    def _copies(self, volume: str, content: Content, name: str) -> None:
        """A snapshot, and a volume that begins as its copy."""
        held = Content(content.kind, content.size, dict(content.chunks))
        shot = ledgers.snapshot(self._driver, volume, f"shot-{name}")
        with self._ledger.open() as told:
            told.snapshots[shot] = held
        if self._rng.random() < 0.5:
            copy = ledgers.copied(self._driver, shot, held, f"copy-{name}")
            with self._ledger.open() as told:
                told.volumes[copy] = Content(held.kind, held.size, dict(held.chunks))
        if self._rng.random() < 0.3:
            with self._ledger.open() as told:
                told.going.add(shot)
            self._driver.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=shot), timeout=60)
            with self._ledger.open() as told:
                told.gone.add(shot)

    def _delete(self, volume: str) -> None:
        with self._ledger.open() as told:
            told.going.add(volume)
        ledgers.put_away(self._driver, volume)
        self._driver.delete(volume)
        with self._ledger.open() as told:
            told.gone.add(volume)
