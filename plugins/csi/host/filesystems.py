"""The filesystems that a volume may have: how a template is made, and how one is told apart from another."""

from __future__ import annotations

import binascii
import errno
import os
from dataclasses import dataclass

from plugins.core.units import Bytes
from plugins.csi.host import ext4

BLOCK = 4096  # the sector size of every volume; see docs/decisions/0003-csi-pool-and-images.md
BLANK = "blank"
UNKNOWN = "unknown data"
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Filesystem:
    """One kind.

    minimum: the smallest volume in bytes that its mkfs takes with these options.
    mkfs: program and arguments; the path follows.
    mount_flags: options that a volume of this kind is always mounted with.
    """

    name: str
    minimum: Bytes
    mkfs: tuple[str, ...]
    mount_flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes when the way of making one changes: templates of an older release are not used."""
        return f"{binascii.crc32(chr(0).join(self.mkfs).encode()):08x}"


EXT4 = Filesystem(
    name="ext4",
    minimum=Bytes(16 * _MIB),
    # A fresh sparse file reads as zeros, so nothing needs zeroing now or later (assume_storage_prezeroed).
    mkfs=(
        *("mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-m", "0", "-O", "metadata_csum,metadata_csum_seed"),
        *("-E", "assume_storage_prezeroed=1,nodiscard"),
    ),
)
XFS = Filesystem(
    name="xfs",
    minimum=Bytes(300 * _MIB),
    mkfs=("mkfs.xfs", "-q", "-f", "-K", "-s", f"size={BLOCK}"),
    # Copies of one template carry one UUID. What protects a volume from a second live superblock is that an image
    # never has two loop devices (pool.devices).
    mount_flags=("nouuid",),
)
KNOWN = {kind.name: kind for kind in (EXT4, XFS)}


def detect(image_fd: int) -> str:
    """What an image holds: the name of a known filesystem, BLANK (no data at all) or UNKNOWN.

    Reads one block, without any program: "blkid found nothing" has cost other drivers their users' data.
    """
    head = os.pread(image_fd, BLOCK, 0)
    if ext4.is_superblock(head[ext4.OFFSET : ext4.OFFSET + ext4.SIZE]):
        return EXT4.name
    if head[:4] == b"XFSB":
        return XFS.name
    return UNKNOWN if any(head) or _has_data(image_fd) else BLANK


def _has_data(image_fd: int) -> bool:
    try:
        os.lseek(image_fd, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data up to the end of the file
            return False
        raise
    return True
