"""How full a volume is, where it is mounted."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from plugins.core.errors import NotFound
from plugins.csi.host import syscalls
from plugins.csi.model import Volume
from plugins.csi.records import Records


@dataclass(frozen=True)
class Usage:
    """total, and for filesystems available and used: bytes, and counts of inodes. Empty inodes: a raw volume."""

    bytes: Mapping[str, int]
    inodes: Mapping[str, int] = field(default_factory=dict)


class Stats:
    """Reads only, and only at paths that are recorded for the volume."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def of(self, volume: Volume, path: str) -> Usage:
        """Usage of a volume that is published or staged at `path`.

        No descriptor is held: an unmount at the same time must not find the volume busy.

        Raises:
            NotFound: it is not there.
        """
        if path.rstrip("/") not in self._paths(volume):
            raise NotFound(f"volume {volume.id!r} is neither published nor staged at {path!r}")
        try:
            status = syscalls.statx(syscalls.AT_FDCWD, path.rstrip("/"))
            space = os.statvfs(path)
        except FileNotFoundError as error:
            raise NotFound(f"volume {volume.id!r}: {path!r} does not exist any more") from error
        if stat.S_ISBLK(status.mode):
            return Usage({"total": volume.size})
        if not status.mount_root:
            raise NotFound(f"volume {volume.id!r} is not mounted at {path!r}")
        return _of_filesystem(space)

    def _paths(self, volume: Volume) -> set[str]:
        staging = self._records.staging(volume.id)
        paths = {publication.target for publication in self._records.publications(volume.id)}
        return paths | {staging.path} if staging and not staging.block else paths


def _of_filesystem(space: os.statvfs_result) -> Usage:
    unit = space.f_frsize
    return Usage(
        bytes={
            "total": space.f_blocks * unit,
            "used": (space.f_blocks - space.f_bfree) * unit,
            "available": space.f_bavail * unit,
        },
        inodes={"total": space.f_files, "used": space.f_files - space.f_ffree, "available": space.f_favail},
    )
