"""A whole disk made into the filesystem of a pool: only where nothing shows that it holds anything.

Three guards, each of which is enough to refuse: our own look at the places where every known format keeps a mark (any
byte there that is not zero), blkid's probe, and mkfs.xfs itself, which is not told to force anything.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import uuid
from pathlib import Path

from plugins.core import command
from plugins.core.errors import FailedPrecondition, InvalidArgument
from plugins.core.units import Bytes

MINIMUM = Bytes(512 << 20)
MOUNT_OPTIONS = "noatime,nodev,nosuid,noexec"

_BLKGETSIZE64 = 0x80081272
_MIB = 1 << 20
_BTRFS_MIRRORS = (64 << 20, 256 << 30)  # btrfs keeps copies of its superblock here; the first one is in the first MiB
_NOTHING_FOUND = 2  # blkid(8)
_TIMEOUT_S = 600.0


def prepare(device: Path) -> str:
    """Make an XFS filesystem that shares blocks on a blank disk; returns its UUID.

    Raises:
        InvalidArgument: it is no block device, or too small.
        FailedPrecondition: it is in use, or may hold data; nothing was written.
        CommandFailed, CommandMissing, DeadlineExceeded: mkfs.xfs or blkid.
    """
    _check_blank(device)
    _check_with_blkid(device)
    command.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(device)], timeout=_TIMEOUT_S)
    return _uuid(device)


def fstab(identity: str, path: Path) -> str:
    """The line of /etc/fstab that mounts it."""
    return f"UUID={identity} {_escaped(path)} xfs {MOUNT_OPTIONS} 0 0"


def unit(identity: str, path: Path) -> str:
    """The same as a systemd mount unit; its file name must follow the path: `systemd-escape --path --suffix=mount`."""
    return (
        "[Unit]\nDescription=Pool of nodeplug csi\nBefore=kubelet.service\n\n"
        f"[Mount]\nWhat=/dev/disk/by-uuid/{identity}\nWhere={path}\nType=xfs\nOptions={MOUNT_OPTIONS}\n\n"
        "[Install]\nWantedBy=local-fs.target\n"
    )


def _check_blank(device: Path) -> None:
    try:
        # O_EXCL is refused while anything has the device or a partition of it: a mount, swap, device-mapper, md.
        fd = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise FailedPrecondition(f"{device} is in use: mounted, swap, or part of another device") from error
        raise InvalidArgument(f"{device} cannot be opened for writing: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISBLK(status.st_mode):
            raise InvalidArgument(f"{device} is no block device")
        size: int = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        if size < MINIMUM:
            raise InvalidArgument(f"{device} has {Bytes(size)}; a pool needs at least {MINIMUM}")
        _check_partitions(device, status.st_rdev)
        for start in (0, size - _MIB, *(mirror for mirror in _BTRFS_MIRRORS if mirror + _MIB <= size)):
            _check_zero(device, fd, start)
    finally:
        os.close(fd)


def _check_partitions(device: Path, rdev: int) -> None:
    folder = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    found = sorted(entry.name for entry in folder.iterdir() if (entry / "partition").exists())
    if found:
        raise FailedPrecondition(f"{device} has partitions ({', '.join(found)})")


def _check_zero(device: Path, fd: int, start: int) -> None:
    data = os.pread(fd, _MIB, start)
    if len(data) != _MIB:
        raise FailedPrecondition(f"{device} cannot be read at byte {start}: it may hold data")
    rest = data.lstrip(b"\0")
    if rest:
        raise FailedPrecondition(
            f"{device} is not blank: there is data at byte {start + _MIB - len(rest)}. If nobody needs it, empty the "
            f"disk yourself (blkdiscard --zeroout {device}, or wipefs and dd) and come again"
        )


def _check_with_blkid(device: Path) -> None:
    found = command.run(["blkid", "-p", str(device)], timeout=_TIMEOUT_S, check=False)
    if found.returncode != _NOTHING_FOUND:
        what = found.text.partition(":")[2].strip() or f"exit code {found.returncode}"
        raise FailedPrecondition(f"{device} may hold data: blkid says {what}")


def _uuid(device: Path) -> str:
    with device.open("rb") as file:
        head = file.read(48)
    if head[:4] != b"XFSB":
        raise FailedPrecondition(f"{device} shows no XFS filesystem after mkfs.xfs")
    return str(uuid.UUID(bytes=head[32:48]))


def _escaped(path: Path) -> str:
    """fstab(5): blanks and the like as three octal digits."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))
