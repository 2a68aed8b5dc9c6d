"""Space that an image has for itself, and keeps. Contract: fallocate(2)."""

from __future__ import annotations

import ctypes
import os

_UNSHARE_RANGE = 0x40  # FALLOC_FL_UNSHARE_RANGE: blocks shared with other files become the file's own, holes are filled

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def keep(image_fd: int, size: int) -> None:
    """Let every byte of an image have a block of its own, so that no write into it can lack space.

    Raises:
        OSError: ENOSPC: there is not that much; EOPNOTSUPP: this filesystem cannot.
    """
    if _libc.fallocate(image_fd, _UNSHARE_RANGE, 0, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
