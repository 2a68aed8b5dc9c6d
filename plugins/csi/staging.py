"""A volume made ready on this node: attached, and mounted at the staging path unless it is raw.

The kernel is asked what is so (loop status, statx of the path); the record says what was wanted. After a reboot the
record is there and the mount is not: whoever needs the volume next, stage or publish, makes it so again.

stage     image attached, mounted, recorded
unstage   unmounted, detached and flushed, record removed
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from plugins.core import faults, log
from plugins.core.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NodeplugError,
    ResourceExhausted,
)
from plugins.csi import expansion
from plugins.csi.host import ext4, ext4_online, filesystems, mountoptions, mounts
from plugins.csi.host.paths import Place, Roots
from plugins.csi.host.syscalls import Status
from plugins.csi.limits import Limits
from plugins.csi.model import Capability, Staging, Volume
from plugins.csi.pool import allocation
from plugins.csi.pool.devices import Device, key_of, opened
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records

logger = log.get("csi.staging")

FORMAT = "format"
_NEXT_TO_NOTHING = (
    1 << 20
)  # bytes of free space with which a write of a device may fail: an I/O error to its filesystem
IMAGE = "nodeplug "  # begins the name that a volume's loop device carries; its token follows


class Stagings:
    """Stage, unstage, and what both rest on. Callers hold the volume's lock."""

    def __init__(self, records: Records, pool: Pool, roots: Roots, limits: Limits) -> None:
        self._records = records
        self._limits = limits
        self._pool = pool
        self._roots = roots

    def stage(self, volume: Volume, capability: Capability, path: str) -> None:
        """Make a volume ready at a staging path.

        Raises:
            InvalidArgument, FailedPrecondition: the path, or the volume cannot be used like this.
            AlreadyExists: it is staged with another capability.
            DataLoss: the image does not hold what was recorded; nothing was changed.
        """
        place = self._roots.place(path, "staging_target_path")
        check_capability(volume, capability)
        fs = "" if capability.block else capability.fs or volume.fs
        wanted = Staging(volume.id, place.path, capability.block, fs, capability.flags)
        recorded = self._records.staging(volume.id)
        if recorded and recorded.path != wanted.path:
            raise FailedPrecondition(f"volume {volume.id!r} is staged at {recorded.path!r}")
        if recorded and recorded != wanted:
            raise AlreadyExists(f"volume {volume.id!r} is staged there with another capability")
        if fs and fs != volume.fs:
            volume = self._retype(volume, fs)
        if capability.block:
            place.look()  # nothing is mounted there; a path that leads elsewhere is refused all the same
        self.ensure(volume, wanted, place)
        if recorded is None:
            self._records.stage(wanted)
            faults.point("csi.stage.recorded")
            logger.debug("volume staged", volume_id=volume.id, path=wanted.path)

    def ensure(self, volume: Volume, staging: Staging, place: Place) -> Device:
        """Let what is recorded, or about to be, be so: attached, and mounted unless it is raw.

        Args:
            place: the staging's path.

        Raises:
            FailedPrecondition: something else is mounted at the path, or it is gone.
            DataLoss: the image does not hold what was recorded.
        """
        device = self._ready(volume, staging, place)
        self._limits.apply(volume, device)
        return device

    def _ready(self, volume: Volume, staging: Staging, place: Place) -> Device:
        if staging.block:
            with self._pool.opened(volume.token) as image:
                device = self._attach(volume, image)
                faults.point("csi.stage.attached")
                return device
        with place.directory() as directory:
            status = place.status(directory) if directory is not None else None
            if directory is None or status is None:
                raise FailedPrecondition(f"staging_target_path {staging.path!r} does not exist")
            if not stat.S_ISDIR(status.mode):
                raise InvalidArgument(f"staging_target_path {staging.path!r} is no directory")
            if not status.mount_root:
                expansion.at_stage(self._records, self._pool, volume)
            with self._pool.opened(volume.token) as image:
                if status.mount_root:
                    return self._mounted(volume, status, image, staging)
                return self._mount(volume, staging, place, directory, image)

    def unstage(self, volume: Volume, path: str) -> None:
        """The opposite of stage. Nothing happens where the volume is not staged at that path.

        Raises:
            FailedPrecondition: it is published still, or something holds it open.
        """
        place = self._roots.place(path, "staging_target_path")
        place.look()  # a path that leads elsewhere is refused even where nothing is staged
        recorded = self._records.staging(volume.id)
        if recorded and recorded.path != place.path:
            return
        self._check_unpublished(volume)
        with self._pool.opened(volume.token) as image:
            device = self._pool.devices.find(image)
            if device:
                self._unmount(place, device)
                faults.point("csi.unstage.unmounted")
                self._limits.clear(device)
                self._pool.devices.detach(device, key_of(image))
                faults.point("csi.unstage.detached")
                os.fsync(image)
        if recorded:
            self._records.unstage(volume.id)
            faults.point("csi.unstage.recorded")
            logger.debug("volume unstaged", volume_id=volume.id, path=place.path)

    def check_unused(self, volume: Volume) -> None:
        """Make sure that nothing on this node uses a volume; what a killed stage left attached is let go.

        Raises:
            FailedPrecondition: it is staged, published, or held by somebody unknown.
        """
        try:
            with self._pool.opened(volume.token) as image:
                device = self._pool.devices.find(image)
                staged = self._records.staging(volume.id)
                if device and staged:
                    raise FailedPrecondition(f"volume {volume.id!r} is in use: it is staged at {staged.path!r}")
                if device:
                    self._pool.devices.detach(device, key_of(image))
        except DataLoss:
            return  # there is no image: nothing can use it, and deleting it is what is left to do

    def _mounted(self, volume: Volume, status: Status, image: int, staging: Staging) -> Device:
        device = self._pool.devices.find(image)
        if device is None or status.dev != device.rdev:
            raise FailedPrecondition(f"another filesystem is mounted at {staging.path!r}, not volume {volume.id!r}")
        return device

    def _mount(self, volume: Volume, staging: Staging, place: Place, directory: int, image: int) -> Device:
        self._check_content(volume, image)
        own = (*filesystems.KNOWN[staging.fs].mount_flags, *(("nodiscard",) if volume.thick else ()))
        options = mountoptions.parse((*staging.flags, *own), staging.fs)
        device = self._attach(volume, image)
        faults.point("csi.stage.attached")
        first = staging.fs == "ext4" and not volume.used
        try:
            with place.opened(directory) as target, _own_uuid(device, volume.token) if first else nullcontext():
                mounts.mount(device.path, staging.fs, options, target)
        except BaseException as error:
            self._let_go(device, image)
            if isinstance(error, mounts.MountFailed) and self._pool.space()[1] < _NEXT_TO_NOTHING:
                raise ResourceExhausted("the pool is full: no filesystem can be mounted", detail=str(error)) from error
            raise
        faults.point("csi.stage.mounted")
        if staging.fs == "xfs" and not options.read_only:
            self._grow(volume, place, device)
        if staging.fs == "ext4" and volume.source and not options.read_only:
            _tell_apart(volume, place)
        return device

    def _attach(self, volume: Volume, image: int) -> Device:
        """The device of an image; a thick one has all its space."""
        if volume.thick:  # a growth or another filesystem remade the image, or a program discarded what was in it
            allocation.keep(image, volume.size)
        return self._pool.devices.attach(image, IMAGE + volume.token)

    def _grow(self, volume: Volume, place: Place, device: Device) -> None:
        """After the mount of a filesystem that grows mounted only. It serves in its old size too: no error ends it."""
        try:
            with opened(device, os.O_RDONLY) as fd:
                expansion.grow_mounted(place, "xfs", device, fd, volume.size)
        except (OSError, NodeplugError) as error:
            logger.warning("the filesystem does not fill its volume", volume_id=volume.id, reason=str(error))

    def _let_go(self, device: Device, image: int) -> None:
        """After a mount that failed: what stays attached is found again, so a failure here is only worth a line."""
        try:
            self._pool.devices.detach(device, key_of(image))
        except (OSError, NodeplugError) as error:
            logger.warning("a device stays attached after a failed mount", device=device.path, reason=str(error))

    def _check_content(self, volume: Volume, image: int) -> None:
        """Mount only what was recorded at create, and never format anything (see pool.templates)."""
        size = os.fstat(image).st_size
        if size != volume.size:
            raise DataLoss(f"volume {volume.id!r} is recorded with {volume.size} bytes and its image has {size}")
        found = filesystems.detect(image)
        if found != volume.fs:
            raise DataLoss(
                f"volume {volume.id!r} is recorded as {volume.fs} and its image holds {found}; nothing was changed"
            )

    def _retype(self, volume: Volume, fs: str) -> Volume:
        """Another filesystem than the default that was put on a volume which nobody ever used: a new image."""
        self.check_unused(volume)
        with self._pool.template(fs, volume.size) as template:
            intent = self._records.announce(FORMAT, volume.id, token=volume.token, fs=fs)
            faults.point("csi.format.announced")
            self._pool.images.create(volume.token, volume.size, template, "csi.format")
        self._records.retype(volume.id, fs, intent)
        faults.point("csi.format.recorded")
        return replace(volume, fs=fs, fs_given=True)

    def _check_unpublished(self, volume: Volume) -> None:
        for publication in self._records.publications(volume.id):
            status = self._roots.place(publication.target, "target_path").look()
            if status and status.mount_root:
                raise FailedPrecondition(f"volume {volume.id!r} is published at {publication.target!r}")

    def _unmount(self, place: Place, device: Device) -> None:
        with place.directory() as directory:
            while directory is not None and _on_device(place.status(directory), device):
                mounts.unmount(directory, place.name, place.path)


def check_capability(volume: Volume, capability: Capability) -> None:
    """Whether a volume can be used like this.

    Raises:
        InvalidArgument: no volume can. FailedPrecondition: this one cannot.
    """
    general = capability.objection()
    if general:
        raise InvalidArgument(general)
    objection = volume.objection(capability)
    if objection:
        raise FailedPrecondition(f"volume {volume.id!r}: {objection}")


def _on_device(status: Status | None, device: Device) -> bool:
    return status is not None and status.mount_root and status.dev == device.rdev


@contextmanager
def _own_uuid(device: Device, token: str) -> Iterator[None]:
    """Around the first mount: a UUID of its own for a clone of a template, the same one at every try.

    The changed superblock stays in the device's cache, where the mount finds it and writes it together with its own
    changes; written before, it would cost as much as the whole clone. The cache lives as long as somebody has the
    device open. A power cut before that write leads back to the template's UUID, and here again.
    """
    own = _uuid_of(token)
    with opened(device, os.O_RDONLY) as held:
        os.posix_fadvise(held, 0, 0, os.POSIX_FADV_RANDOM)  # this one block, and nothing ahead
        block = os.pread(held, ext4.SIZE, ext4.OFFSET)
        if ext4.uuid(block) != own:
            with opened(device, os.O_RDWR) as fd:
                os.pwrite(fd, ext4.with_uuid(block, own), ext4.OFFSET)
        yield


def _tell_apart(volume: Volume, place: Place) -> None:
    """After the mount of a copy: a UUID of its own. By the kernel, because a copy may need its journal replayed first.

    Linux 6.0 can do it. Before that the UUID stays its source's, which the kernel does not mind.
    """
    try:
        with place.directory() as directory:
            if directory is not None:
                with place.opened(directory) as found:
                    fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    ext4_online.set_uuid(fd, _uuid_of(volume.token))
                finally:
                    os.close(fd)
    except (OSError, NodeplugError) as error:
        logger.info("a copy keeps the UUID of its source", volume_id=volume.id, reason=str(error))


def _uuid_of(token: str) -> bytes:
    """The UUID of a volume's filesystem, the same one at every try: the token's random bytes (RFC 9562, version 8)."""
    drawn = bytes.fromhex(token.rpartition("-")[2])
    return drawn[:6] + b"\x80\x00\x80\x00" + drawn[4:10]
