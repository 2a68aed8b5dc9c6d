"""One moment of one or more volumes, kept: every image cloned at a point at which nothing half-written is in it.

A volume that is not in use does not change. Of one that is, the kernel writes what programs have written so far to the
image first (flush), which stalls nobody; then FICLONE alone is a cut through an image, because it holds off each
single write. A freeze holds off all of them for the length of the block, so that several images have one moment.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from plugins.core import faults
from plugins.core.errors import DataLoss, FailedPrecondition, NodeplugError
from plugins.csi.capacity import refuse_sharing
from plugins.csi.host import freeze, syscalls
from plugins.csi.host.paths import Roots
from plugins.csi.model import Volume
from plugins.csi.pool import reflink
from plugins.csi.pool.devices import Device, opened
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_model import Consistency

_PIECE_S = 0.00005  # a clone takes about that for each extent of an image (measured: 41 to 51 microseconds on XFS)


@dataclass(frozen=True)
class Cut:
    """What became of a cut. created: nanoseconds since the epoch; held: bytes allocated, for each image in order."""

    created: int
    held: tuple[int, ...]


@dataclass(frozen=True)
class _Use:
    """How a volume is in use: attached to a device; root: a descriptor of its mounted filesystem, -1 for a raw one."""

    device: Device
    root: int = -1


class Cutter:
    """Cuts through the volumes of one pool."""

    def __init__(
        self, records: Records, pool: Pool, roots: Roots, *, freeze_limit: float, stall_limit: float = 0.0
    ) -> None:
        """
        Args:
            freeze_limit: seconds that a filesystem is held frozen at most.
            stall_limit: seconds that a cut may be expected to hold off writers; 0 for any.
        """
        self._records = records
        self._pool = pool
        self._roots = roots
        self._limit = freeze_limit
        self._stall_limit = stall_limit

    def cut(self, volumes: Sequence[Volume], tokens: Sequence[str], how: Consistency, step: str) -> Cut:
        """Keep one moment of volumes as snapshot images, durably. Callers hold the volumes' locks.

        Args:
            tokens: of the new images, one for each volume.
            step: prefix of the fault points.

        Raises:
            FailedPrecondition: the filesystem of one cannot be frozen, they cannot have one moment, or their images
                lie in so many pieces that writers would have to wait for too long.
            DeadlineExceeded: it took longer than a freeze may.
            DataLoss: an image is not what was recorded.
        """
        for volume in volumes:
            refuse_sharing(volume)
        with contextlib.ExitStack() as stack:
            sources = [stack.enter_context(self._pool.opened(volume.token)) for volume in volumes]
            for volume, source in zip(volumes, sources, strict=True):
                check_size(volume, source)
            uses = [self._use(stack, volume, source) for volume, source in zip(volumes, sources, strict=True)]
            self._check_stall([source for source, use in zip(sources, uses, strict=True) if use])
            targets = [stack.enter_context(self._pool.snapshots.hidden(token)) for token in tokens]
            faults.point(f"{step}.hidden")
            with freeze.frozen(_to_freeze(volumes, uses, how), self._limit, lambda: _flush(uses)):
                faults.point(f"{step}.frozen")
                created = time.time_ns()
                for target, source in zip(targets, sources, strict=True):
                    reflink.clone(target, source)
                    faults.point(f"{step}.filled")
            for token, target in zip(tokens, targets, strict=True):
                self._pool.snapshots.keep(token, target, step)
            return Cut(created, tuple(os.fstat(target).st_blocks * 512 for target in targets))

    def flush(self, volume: Volume, image: int) -> None:
        """Before a clone: let what programs have written to a volume so far be in its image.

        Raises:
            FailedPrecondition: the clone would hold off writers for too long.
        """
        with contextlib.ExitStack() as stack:
            use = self._use(stack, volume, image)
            self._check_stall([image] if use else [])
            _flush([use])

    def _check_stall(self, images: Sequence[int]) -> None:
        """images: of volumes in use; nobody waits for a clone of the others."""
        if not self._stall_limit:
            return
        pieces = sum(map(reflink.pieces, images))
        if pieces * _PIECE_S > self._stall_limit:
            raise FailedPrecondition(
                f"the image lies in {pieces} pieces, so a cut would keep its writers waiting for about "
                f"{pieces * _PIECE_S:.0f} s, more than {self._stall_limit:g} s (stall_limit); "
                "while nothing uses the volume it can be cut at any time"
            )

    def _use(self, stack: contextlib.ExitStack, volume: Volume, image: int) -> _Use | None:
        """How a volume is used; None where it is not. What is opened is closed with the stack."""
        device = self._pool.devices.find(image)
        if device is None:
            return None
        root = self._root(volume, device)
        if root is None:
            return _Use(device)
        stack.callback(os.close, root)
        return _Use(device, root)

    def _root(self, volume: Volume, device: Device) -> int | None:
        """A descriptor of the root of a volume's mounted filesystem; None where it is mounted nowhere that we know."""
        staging = self._records.staging(volume.id)
        if staging is None or staging.block:
            return None
        for path in (staging.path, *(publication.target for publication in self._records.publications(volume.id))):
            with contextlib.suppress(NodeplugError):  # a recorded path that is a link by now is not where it is mounted
                root = self._mounted(path, device)
                if root is not None:
                    return root
        return None

    def _mounted(self, path: str, device: Device) -> int | None:
        place = self._roots.place(path, "recorded path")
        with place.directory() as directory:
            status = place.status(directory) if directory is not None else None
            if directory is None or status is None or not status.mount_root or status.dev != device.rdev:
                return None
            with place.opened(directory) as found:
                return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _flush(uses: Sequence[_Use | None]) -> None:
    """Let what programs have written so far be in the images."""
    for use in uses:
        if use and use.root >= 0:
            syscalls.syncfs(use.root)
        elif use:
            with opened(use.device, os.O_RDONLY) as fd:
                os.fsync(fd)


def check_size(volume: Volume, image: int) -> None:
    """Whether an image has the size that is recorded.

    Raises:
        DataLoss: it has not.
    """
    size = os.fstat(image).st_size
    if size != volume.size:
        raise DataLoss(f"volume {volume.id!r} is recorded with {volume.size} bytes and its image has {size}")


def thaw(records: Records, pool: Pool, volume_id: str) -> None:
    """Start-up: let the filesystem of a volume go on that a killed cut may have left frozen."""
    volume, staging = records.volume(volume_id), records.staging(volume_id)
    if volume is None or staging is None or staging.block:
        return
    with pool.opened(volume.token) as image:
        device = pool.devices.find(image)
    with contextlib.suppress(OSError):  # not mounted there any more
        fd = os.open(staging.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if device and os.fstat(fd).st_dev == device.rdev:
                freeze.thaw(fd)
        finally:
            os.close(fd)


def _to_freeze(volumes: Sequence[Volume], uses: Sequence[_Use | None], how: Consistency) -> dict[int, str]:
    """What has to be frozen, and its name. A raw device cannot be: one of them still has the moment of the others."""
    if how is Consistency.CRASH:
        return {}
    raw = [volume for volume, use in zip(volumes, uses, strict=True) if use and use.root < 0]
    hidden = next((volume for volume in raw if volume.fs and not volume.block), None)
    if hidden:
        raise FailedPrecondition(f"the filesystem of volume {hidden.id!r} is in use where this daemon cannot freeze it")
    if len(raw) > 1:
        names = " and ".join(repr(volume.id) for volume in raw[:2])
        raise FailedPrecondition(
            f"{names} are raw devices in use: they cannot be held still, so they cannot be cut at one moment; "
            "consistency = crash cuts each at its own"
        )
    return {use.root: f"volume {v.id!r}" for v, use in zip(volumes, uses, strict=True) if use and use.root >= 0}
