"""Copies that share their blocks. Contracts: ioctl_ficlone(2), Documentation/filesystems/fiemap.rst."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

_FICLONE = 0x40049409
_FIEMAP = 0xC020660B
_FIEMAP_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped extents, extents that fit, reserved
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS)


def clone(target_fd: int, source_fd: int) -> None:
    """Let the target have the source's content, sharing its blocks until one of the two is written to."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def pieces(fd: int) -> int:
    """How many extents a file is made of: what the time of a clone goes by. The kernel only counts them."""
    buffer = bytearray(_FIEMAP_HEAD.pack(0, os.fstat(fd).st_size, 0, 0, 0, 0))
    fcntl.ioctl(fd, _FIEMAP, buffer)
    return int(_FIEMAP_HEAD.unpack(buffer)[3])


def supported(directory: str) -> bool:
    """Whether files in a directory can be cloned: found out by cloning one, never by a filesystem's name."""
    names = [os.path.join(directory, f".nodeplug-probe-{os.getpid()}-{part}") for part in ("source", "target")]
    fds: list[int] = []
    try:
        fds += [os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600) for name in names]
        os.write(fds[0], bytes(4096))
        clone(fds[1], fds[0])
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    finally:
        for fd in fds:
            os.close(fd)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    return True
