"""Free blocks of a mounted filesystem given back to what it lies on. Contract: FITRIM (linux/fs.h), fstrim(8)."""

from __future__ import annotations

import errno
import fcntl
import struct

_FITRIM = 0xC0185879
_RANGE = struct.Struct("=3Q")  # struct fstrim_range: start, len, minlen
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EROFS, errno.EPERM)


def trim(fd: int, start: int, length: int) -> int | None:
    """Discard what is free between two addresses of a filesystem.

    Args:
        fd: a directory of it.
        start, length: bytes.

    Returns:
        Bytes that were free there, as far as the filesystem tells; None past its end, or where it cannot do this.
    """
    request = bytearray(_RANGE.pack(start, length, 0))
    try:
        fcntl.ioctl(fd, _FITRIM, request)
    except OSError as error:
        if error.errno == errno.EINVAL or error.errno in _CANNOT:
            return None
        raise
    return int(_RANGE.unpack(request)[1])
