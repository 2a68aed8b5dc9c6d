"""What can honestly be done for keys in memory.

Keys lie in pages of their own that are not swapped (mlock), not part of a core dump (MADV_DONTDUMP), not inherited by
a child (MADV_DONTFORK), and that are zeroed when the last user lets go. The process cannot be dumped or traced by
others of its uid. What cannot be done: Python's bytes (a request's plaintext, the file as it was read) and OpenSSL's
contexts are freed, not zeroed by us.
"""

from __future__ import annotations

import ctypes
import mmap
import resource
import weakref

from plugins.core import log

logger = log.get("kms.memory")

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class SecretMemory:
    """A fixed number of bytes for keys, handed out in slices.

    A slice is valid as long as this object is referenced: whoever keeps a slice keeps the object too.
    """

    def __init__(self, size: int) -> None:
        """size: bytes in all; at least one page is taken."""
        self._map = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._map.madvise(mmap.MADV_DONTFORK)
        self._used = 0
        self.locked = _mlock(self._map)
        weakref.finalize(self, _wipe, self._map)

    def take(self, size: int) -> memoryview:
        """The next size bytes, writable.

        Raises:
            ValueError: it is full.
        """
        start, end = self._used, self._used + size
        if end > len(self._map):
            raise ValueError("no room left in this secret memory")
        self._used = end
        return memoryview(self._map)[start:end]


def harden_process() -> None:
    """No core dump of this process, and no tracing or reading of its memory by other processes of its user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        logger.warning("the process stays dumpable", errno=ctypes.get_errno())


def _mlock(area: mmap.mmap) -> bool:
    """False where RLIMIT_MEMLOCK does not allow it; the caller says so, and the daemon goes on."""
    view = ctypes.c_char.from_buffer(area)
    return bool(_libc.mlock(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(area))) == 0)


def _wipe(area: mmap.mmap) -> None:
    area[:] = bytes(len(area))
