"""Mounted filesystems grown by the kernel itself, without any program.

Contracts: fs/xfs/libxfs/xfs_fs.h (XFS_IOC_FSGEOMETRY_V1, XFS_IOC_FSGROWFSDATA), fs/ext4/ext4.h (EXT4_IOC_RESIZE_FS).
Each is one transaction of the filesystem's own journal: after a power cut it has the old size or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from plugins.core.errors import FailedPrecondition
from plugins.csi.host import ext4
from plugins.csi.host.filesystems import BLOCK

_XFS_GEOMETRY = 0x80705864
_XFS_GROW = 0x4010586E
_EXT4_RESIZE = 0x40086610
_XFS_HEAD = struct.Struct("=8IQ")  # blocksize, ..., imaxpct (eighth), datablocks; the rest of the 112 bytes is not ours
_XFS_LAST_GROUP = 64  # XFS_MIN_AG_BLOCKS: a new allocation group smaller than that is left out


def grow(filesystem: str, fd: int, device_fd: int, size: int) -> None:
    """Let a mounted filesystem fill its device; nothing happens where it does already.

    Args:
        fd: a directory of the mount, opened for reading.
        device_fd: the device that it lies on, which has `size` bytes.

    Raises:
        FailedPrecondition: the kernel does not let this daemon do it, or the mount is read-only.
    """
    try:
        if filesystem == "xfs":
            _grow_xfs(fd, size)
        elif ext4.lacks(os.pread(device_fd, ext4.SIZE, ext4.OFFSET), size):
            fcntl.ioctl(fd, _EXT4_RESIZE, struct.pack("=Q", size // BLOCK))
    except OSError as error:
        if error.errno == errno.EPERM and filesystem == "ext4":
            raise FailedPrecondition(
                "the kernel grows a mounted ext4 filesystem only for CAP_SYS_RESOURCE, which this daemon has not got; "
                "the volume has its new size already and its filesystem follows when it is staged the next time: "
                "end the pods that use it on this node and let them start again",
                detail=str(error),
            ) from error
        if error.errno == errno.EROFS:
            raise FailedPrecondition(
                "the filesystem is mounted read-only and cannot grow", detail=str(error)
            ) from error
        raise


def _grow_xfs(fd: int, size: int) -> None:
    geometry = bytearray(112)
    fcntl.ioctl(fd, _XFS_GEOMETRY, geometry)
    *head, blocks = _XFS_HEAD.unpack_from(geometry)
    wanted = size // head[0]
    if wanted <= blocks:
        return
    try:
        fcntl.ioctl(fd, _XFS_GROW, struct.pack("=QI4x", wanted, head[7]))
    except OSError as error:
        if error.errno != errno.EINVAL or wanted - blocks >= _XFS_LAST_GROUP:
            raise
