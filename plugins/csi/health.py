"""What is wrong with a volume, or with the pool behind all of them: looked at when asked, never remembered.

Only what can be seen for certain is told: a missing or cut image, a device or mount that the record has and the kernel
has not, a filesystem that went read-only or counts errors, a pool that failed or is nearly full. Nothing is repaired.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plugins.core.errors import DataLoss, NotFound
from plugins.core.units import Bytes
from plugins.csi.host import mountinfo, mountoptions
from plugins.csi.host.paths import Roots
from plugins.csi.model import Publication, Staging, Volume
from plugins.csi.pool.devices import Device
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records

_NEARLY_FULL = 0.05  # of the pool; below it writes into thin volumes may soon fail


class Severity(enum.IntEnum):
    """VolumeHealthErrorType of CSI 1.13, by number."""

    DEGRADED = 1
    INACCESSIBLE = 2
    DATA_LOSS = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. reason: one word in CamelCase for machines; message: a sentence for people."""

    severity: Severity
    reason: str
    message: str


class Health:
    """Looks only, and takes no lock: the answer is a snapshot anyway."""

    def __init__(self, records: Records, pool: Pool, roots: Roots, reserve: int) -> None:
        """reserve: bytes that the pool should keep free."""
        self._records = records
        self._pool = pool
        self._roots = roots
        self._reserve = reserve

    def of_storage(self) -> list[Finding]:
        """What is wrong with the pool."""
        try:
            self._pool.check()
            total, free = self._pool.space()
        except OSError as error:
            text = f"the filesystem of the pool {self._pool.path} has failed: {error.strerror}"
            return [Finding(Severity.INACCESSIBLE, "PoolFailed", text)]
        return [*self._read_only(), *self._mount_lost(), *self._nearly_full(total, free)]

    def of_image(self, volume: Volume) -> list[Finding]:
        """What the storage side sees of a volume."""
        try:
            with self._pool.opened(volume.token) as image:
                size = os.fstat(image).st_size
        except DataLoss as error:
            return [Finding(Severity.DATA_LOSS, "ImageMissing", error.message)]
        except OSError as error:
            text = f"the image of volume {volume.id!r} cannot be opened: {error.strerror}"
            return [Finding(Severity.INACCESSIBLE, "ImageUnreadable", text)]
        if size == volume.size:
            return []
        text = f"volume {volume.id!r} is recorded with {volume.size} bytes and its image has {size}"
        return [Finding(Severity.DATA_LOSS, "ImageCut" if size < volume.size else "ImageSizeDiffers", text)]

    def of_use(self, volume: Volume, target: str, staging_path: str) -> list[Finding]:
        """What this node sees of a volume.

        Args:
            target, staging_path: where the caller has it; "" for no particular place.

        Raises:
            NotFound: it is not recorded at one of them.
        """
        staging = self._records.staging(volume.id)
        publications = self._records.publications(volume.id)
        if staging_path and (staging is None or staging.path != staging_path.rstrip("/")):
            raise NotFound(f"volume {volume.id!r} is not staged at {staging_path!r}")
        if target:
            publications = [p for p in publications if p.target == target.rstrip("/")]
            if not publications:
                raise NotFound(f"volume {volume.id!r} is not published at {target!r}")
        found = self.of_image(volume)
        if staging and not any(f.reason in ("ImageMissing", "ImageUnreadable") for f in found):
            found += self._in_kernel(volume, staging, publications)
        return found

    def _in_kernel(self, volume: Volume, staging: Staging, publications: list[Publication]) -> list[Finding]:
        with self._pool.opened(volume.token) as image:
            device = self._pool.devices.find(image)
        if device is None:
            text = f"volume {volume.id!r} is staged by record, but no device shows it (a reboot, or it was detached)"
            return [Finding(Severity.INACCESSIBLE, "DeviceLost", text)]
        found = [] if staging.block else list(self._mount(volume, staging, device))
        if any(finding.reason == "FilesystemFailed" for finding in found):
            return found  # nothing can be asked about it at any path
        for publication in publications:
            status = self._roots.place(publication.target, "target_path").look()
            if status is None or not status.mount_root:
                text = f"volume {volume.id!r} is published at {publication.target!r} by record, but not mounted there"
                found.append(Finding(Severity.INACCESSIBLE, "NotMounted", text))
        return found

    def _mount(self, volume: Volume, staging: Staging, device: Device) -> Iterator[Finding]:
        try:
            status = self._roots.place(staging.path, "staging_target_path").look()
            mounted = status is not None and status.mount_root and status.dev == device.rdev
            if mounted:
                with os.scandir(staging.path) as entries:
                    next(entries, None)
        except OSError as error:
            text = f"the filesystem of volume {volume.id!r} has failed: {error.strerror}"
            yield Finding(Severity.INACCESSIBLE, "FilesystemFailed", text)
            return
        if not mounted:
            text = f"volume {volume.id!r} is staged at {staging.path!r} by record, but not mounted there"
            yield Finding(Severity.INACCESSIBLE, "NotMounted", text)
            return
        mounts = mountinfo.of_device(mountinfo.read(), device.rdev)
        wanted = mountoptions.parse(staging.flags, staging.fs).read_only
        if not wanted and any("ro" in mount.super_options for mount in mounts):
            text = f"the filesystem of volume {volume.id!r} has become read-only, as after errors on its device"
            yield Finding(Severity.INACCESSIBLE, "FilesystemReadOnly", text)
        errors = _ext4_errors(device)
        if errors:
            text = f"the ext4 filesystem of volume {volume.id!r} has counted {errors} errors; it needs e2fsck"
            yield Finding(Severity.DEGRADED, "FilesystemErrors", text)

    def _read_only(self) -> Iterator[Finding]:
        if self._pool.read_only:
            text = f"the filesystem of the pool {self._pool.path} is read-only"
            yield Finding(Severity.INACCESSIBLE, "PoolReadOnly", text)

    def _mount_lost(self) -> Iterator[Finding]:
        """The daemon goes on by its descriptors; the next one would not find the pool."""
        try:
            there = os.stat(self._pool.path).st_dev
        except OSError:
            there = -1
        if there != self._pool.dev:
            text = f"the pool is not mounted at {self._pool.path} any more: volumes work until the daemon starts anew"
            yield Finding(Severity.DEGRADED, "PoolMountLost", text)

    def _nearly_full(self, total: int, free: int) -> Iterator[Finding]:
        if free < max(self._reserve, int(total * _NEARLY_FULL)):
            text = f"the pool {self._pool.path} has {Bytes(free)} of {Bytes(total)} left: writes may soon fail"
            yield Finding(Severity.DEGRADED, "PoolNearlyFull", text)


def _ext4_errors(device: Device) -> int:
    try:
        return int(Path(f"/sys/fs/ext4/loop{device.number}/errors_count").read_text(encoding="ascii"))
    except OSError:
        return 0  # another filesystem
