"""Volumes that grow: the image first, then what shows it.

grow       promise, intent, image longer and durable, record and intent in one commit
show       the loop device and its read-only views, then the filesystem, if they lag behind the image
at_stage   the filesystem of a volume that is not mounted yet: a copy of the image is grown and takes its place

Nothing here ever shrinks. A killed call is finished by start-up where the image has grown, else forgotten; what is
left to show is found by comparing sizes, so that no record of it can be wrong.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from plugins.core import command, faults, log
from plugins.core.errors import DataLoss, InvalidArgument, NotFound, OutOfRange
from plugins.core.store import Intent
from plugins.csi import sizes
from plugins.csi.capacity import Capacity
from plugins.csi.host import ext4, growth
from plugins.csi.host.paths import Place, Roots
from plugins.csi.model import Volume
from plugins.csi.pool import allocation
from plugins.csi.pool.devices import Device, key_of, opened
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records

logger = log.get("csi.expansion")

EXPAND, GROW = "expand", "grow"
_PROGRAM_S = 300.0  # e2fsck and resize2fs: seconds for terabytes, and the caller has given up long before
_FSCK_MENDED = 1  # e2fsck(8): errors corrected; from 4 on errors are left


class Expansion:
    """Growth of the volumes of this node. Callers hold the volume's lock."""

    def __init__(self, records: Records, pool: Pool, capacity: Capacity, roots: Roots, node: str) -> None:
        self._records = records
        self._pool = pool
        self._capacity = capacity
        self._roots = roots
        self._node = node

    def grow(self, volume: Volume, required: int, limit: int) -> Volume:
        """The volume with a size in a capacity range (bytes, 0: not given); as it is, if its size lies there.

        Raises:
            InvalidArgument, OutOfRange: the range, or the volume is larger than it allows already.
            ResourceExhausted: the pool cannot promise that much more.
            DataLoss: the image is gone.
        """
        size = _planned(volume, required, limit)
        if size == volume.size:
            return volume
        with self._pool.opened(volume.token) as image, self._promise(volume, size):
            self._lengthen(volume, image, size)
        faults.point("csi.expand.recorded")
        logger.info("volume expanded", volume_id=volume.id, from_bytes=volume.size, size_bytes=size)
        return replace(volume, size=size)

    def needs_node(self, volume: Volume) -> bool:
        """Whether something on the node has to follow the image: a filesystem, or a device in use."""
        if volume.fs:
            return True
        with self._pool.opened(volume.token) as image:
            return self._pool.devices.find(image) is not None

    def check_path(self, volume: Volume, path: str) -> None:
        """Make sure that a path is one of the volume's.

        Raises:
            NotFound: it is neither staged nor published there.
        """
        staging = self._records.staging(volume.id)
        known = {publication.target for publication in self._records.publications(volume.id)}
        if path.rstrip("/") not in known | ({staging.path} if staging else set()):
            raise NotFound(f"volume {volume.id!r} is neither published nor staged at {path!r}")

    def show(self, volume: Volume) -> None:
        """Let device and filesystem follow the image, in use. What is not in use follows when it is staged.

        Raises:
            FailedPrecondition: the kernel does not grow this filesystem for us while it is mounted; says what helps.
        """
        with self._pool.opened(volume.token) as image:
            device = self._pool.devices.find(image)
        staging = self._records.staging(volume.id)
        if device is None or staging is None:
            return
        with opened(device, os.O_RDONLY) as fd:
            if os.lseek(fd, 0, os.SEEK_END) < volume.size:
                self._pool.devices.follow_size(device)
                faults.point("csi.expand.device")
            if not staging.block:
                place = self._roots.place(staging.path, "staging_target_path")
                grow_mounted(place, staging.fs, device, fd, volume.size)
                faults.point("csi.expand.filesystem")

    def _promise(self, volume: Volume, size: int) -> contextlib.AbstractContextManager[None]:
        return self._capacity.promise(size - volume.size, self._node, thick=volume.thick)

    def _lengthen(self, volume: Volume, image: int, size: int) -> None:
        intent = self._records.announce(EXPAND, volume.id, token=volume.token)
        try:
            faults.point("csi.expand.announced")
            os.ftruncate(image, size)
            faults.point("csi.expand.longer")
            if volume.thick:
                allocation.keep(image, size)
            os.fsync(image)
            faults.point("csi.expand.durable")
            self._records.resize(volume.id, size, intent)
        except BaseException:
            os.ftruncate(image, volume.size)  # nobody has seen the new part: no device shows it yet
            self._records.settle(intent)
            raise


def grow_mounted(place: Place, fs: str, device: Device, device_fd: int, size: int) -> None:
    """Grow the filesystem on a device where it is mounted; nothing happens where something else is, or nothing."""
    with place.directory() as directory:
        status = place.status(directory) if directory is not None else None
        if directory is None or status is None or not status.mount_root or status.dev != device.rdev:
            return
        with place.opened(directory) as found:
            fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            growth.grow(fs, fd, device_fd, size)
        finally:
            os.close(fd)


def at_stage(records: Records, pool: Pool, volume: Volume) -> None:
    """Before a mount: let an ext4 filesystem fill its image. xfs grows at once after its mount.

    The filesystem's own programs work on a copy that shares all blocks, so that one that is killed half-way has
    done nothing.

    Raises:
        DataLoss: the filesystem has errors that e2fsck does not correct by itself; the image is as it was.
    """
    with pool.opened(volume.token) as image:
        block = os.pread(image, ext4.SIZE, ext4.OFFSET)
        size = os.fstat(image).st_size
        if size != volume.size or not ext4.is_superblock(block) or not ext4.lacks(block, size):
            return
        device = pool.devices.find(image)
        if device:  # what a killed call left attached
            pool.devices.detach(device, key_of(image))
    intent = records.announce(GROW, volume.id, token=volume.token)
    try:
        with pool.images.remade(volume.token, "csi.grow") as path:
            _check_and_grow(volume, path)
    finally:
        records.settle(intent)
    faults.point("csi.grow.recorded")
    logger.info("filesystem grown before its mount", volume_id=volume.id, size_bytes=size)


def _check_and_grow(volume: Volume, path: str) -> None:
    check = command.run(["e2fsck", "-f", "-p", path], timeout=_PROGRAM_S, check=False)
    if check.returncode > _FSCK_MENDED:
        raise DataLoss(
            f"the filesystem of volume {volume.id!r} has errors that e2fsck does not correct by itself; "
            "nothing was changed",
            detail=f"exit code {check.returncode}: {check.text[-2000:]}",
        )
    command.run(["resize2fs", path], timeout=_PROGRAM_S)


def finish(records: Records, pool: Pool, intent: Intent) -> None:
    """Start-up: an image that has grown stays so and is recorded; one that has not was never promised to anybody."""
    volume = records.volume(intent.key)
    size = 0
    with contextlib.suppress(DataLoss), pool.opened(intent.data["token"]) as image:
        size = os.fstat(image).st_size
        os.fsync(image)
    if volume and size > volume.size:
        records.resize(volume.id, size, intent)
    else:
        records.settle(intent)


def clear(records: Records, pool: Pool, intent: Intent) -> None:
    """Start-up: the copy of a growth that did not end is in nobody's way, and goes."""
    pool.images.remove_hidden(intent.data["token"])
    records.settle(intent)


def _planned(volume: Volume, required: int, limit: int) -> int:
    if required < 0 or limit < 0:
        raise InvalidArgument("capacity_range has a negative number")
    if required > volume.size:
        return sizes.plan(required, limit, minimum=required, default=required)
    if limit and limit < required:
        raise OutOfRange(f"capacity_range asks for at least {required} and at most {limit} bytes")
    if limit and limit < volume.size:
        raise OutOfRange(f"volume {volume.id!r} has {volume.size} bytes, limit_bytes is {limit}; volumes never shrink")
    return volume.size
