"""Where a file's blocks lie on its disk, and by that what differs between two copies that share blocks.

Contract: Documentation/filesystems/fiemap.rst, FS_IOC_FIEMAP. Two files of one filesystem that name the same physical
block at the same place have the same content there. While both exist no write can change that block for one of them
alone. Whatever the filesystem does not say plainly (inline, encoded, unknown, not yet allocated) counts as different.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FIEMAP = 0xC020660B
_SYNC = 1  # FIEMAP_FLAG_SYNC: data that is only in memory gets its place first
_HEAD = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_BATCH = 2048

_LAST = 0x1
_UNKNOWN, _DELALLOC, _ENCODED, _ENCRYPTED = 0x2, 0x4, 0x8, 0x80
_NOT_ALIGNED, _INLINE, _TAIL, _UNWRITTEN = 0x100, 0x200, 0x400, 0x800
_UNPLAIN = _UNKNOWN | _DELALLOC | _ENCODED | _ENCRYPTED | _NOT_ALIGNED | _INLINE | _TAIL


class Range(NamedTuple):
    """Bytes from `start` up to, without, `end`."""

    start: int
    end: int


class Extent(NamedTuple):
    """A range with data. shift: physical minus logical offset; None where the filesystem does not say it plainly."""

    start: int
    end: int
    shift: int | None


def extents(fd: int, start: int, size: int) -> Iterator[Extent]:
    """The extents of a file from `start` up to `size` that may hold data, in order; holes are left out."""
    buffer = bytearray(_HEAD.size + _BATCH * _EXTENT.size)
    while start < size:
        _HEAD.pack_into(buffer, 0, start, size - start, _SYNC, 0, _BATCH, 0)
        fcntl.ioctl(fd, _FIEMAP, buffer)
        count = _HEAD.unpack_from(buffer)[3]
        if not count:
            return
        for logical, physical, length, flags in _EXTENT.iter_unpack(
            memoryview(buffer)[_HEAD.size : _HEAD.size + count * _EXTENT.size]
        ):
            first, start = max(logical, start), max(start, logical + length)
            if flags & _LAST:
                start = size
            if first < min(logical + length, size) and not (flags & _UNWRITTEN and not flags & _UNPLAIN):
                shift = None if flags & _UNPLAIN else physical - logical
                yield Extent(first, min(logical + length, size), shift)


def allocated(fd: int, start: int, size: int) -> Iterator[Range]:
    """The ranges of a file that may hold data, from `start` up to `size`; neighbours are one range."""
    return _joined(Range(extent.start, extent.end) for extent in extents(fd, start, size))


def changed(base_fd: int, target_fd: int, start: int, size: int) -> Iterator[Range]:
    """The ranges in which the target may differ from the base, from `start` up to `size`; neighbours are one range.

    A range that only the base has data in is one: the target reads as zeros there.
    """
    return _joined(_different(extents(base_fd, start, size), extents(target_fd, start, size)))


def _different(base: Iterator[Extent], target: Iterator[Extent]) -> Iterator[Range]:
    """Both lists walked together: at every step the part that lies before the next border of either."""
    a, b = next(base, None), next(target, None)
    while a or b:
        if b is None or (a and a.end <= b.start):
            assert a
            yield Range(a.start, a.end)
            a = next(base, None)
        elif a is None or b.end <= a.start:
            yield Range(b.start, b.end)
            b = next(target, None)
        elif a.start != b.start:  # one of them begins earlier: alone up to where the other begins
            border = max(a.start, b.start)
            yield Range(min(a.start, b.start), border)
            a, b = a._replace(start=border), b._replace(start=border)
        else:
            end = min(a.end, b.end)
            if a.shift is None or a.shift != b.shift:
                yield Range(a.start, end)
            a = a._replace(start=end) if end < a.end else next(base, None)
            b = b._replace(start=end) if end < b.end else next(target, None)


def _joined(ranges: Iterable[Range]) -> Iterator[Range]:
    last: Range | None = None
    for found in ranges:
        if last and found.start == last.end:
            last = Range(last.start, found.end)
            continue
        if last:
            yield last
        last = found
    if last:
        yield last
