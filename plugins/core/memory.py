"""Gives back what only the start needed.

Half of a Python gRPC process's resident memory is file pages of its libraries that were touched once: initialisers,
symbol tables, constants of parts that this daemon never uses. Nobody needs them while it waits. They stay in the page
cache as long as there is room, so what a call does need is mapped again in microseconds, without reading the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path

from plugins.core import log

logger = log.get("memory")

_MADV_DONTNEED = 4  # asm-generic/mman-common.h
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d*\s+/")


def settle() -> None:
    """Collect the garbage of the start, return free heap pages, and unmap clean file pages.

    Never fails: memory is all that is at stake. Linux with glibc; elsewhere less is given back.
    """
    gc.collect()
    gc.freeze()  # what is left stays for ever: no later collection needs to walk it
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.malloc_trim(0)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        ranges = list(clean_file_mappings(Path("/proc/self/smaps").read_text()))
        for start, size in ranges:
            libc.madvise(start, size, _MADV_DONTNEED)
        logger.debug("start-up memory given back", mappings=len(ranges), mapped_bytes=sum(size for _, size in ranges))


def clean_file_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """(address, bytes) of the private, read-only file mappings that hold no page of their own.

    Invariant: only pages equal to their file may be dropped. A mapping with an anonymous page (relocations, a
    debugger's or tracer's breakpoint) holds something that the file does not, and is left alone.

    Args:
        smaps: text of /proc/PID/smaps (proc(5)).
    """
    current: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if match := _MAPPING.match(line):
            start = int(match[1], 16)
            current = start, int(match[2], 16) - start
        elif line.startswith("Anonymous:"):
            if current and line.split()[1] == "0":
                yield current
            current = None
