"""CRC-32C (Castagnoli), as ext4 uses it, and how it changes when a few bytes do.

A CRC is linear: the checksums of two blocks differ by the checksum (begun at 0) of what differs in them. So a new
superblock costs the bytes that changed and not the whole block, and a block that was damaged stays recognisable as
such, because its old wrong checksum is changed by exactly as much as a right one would be.
"""

from __future__ import annotations

import functools

_POLYNOMIAL = 0x82F63B78  # reflected


def checksum(data: bytes | bytearray, start: int = 0xFFFFFFFF) -> int:
    """The register after all bytes, not inverted at the end."""
    value = start
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def change(difference: bytes, behind: int) -> int:
    """What to xor a checksum with when `difference` was xored into the data, with `behind` bytes after it."""
    value, result = checksum(difference, 0), 0
    for bit, image in enumerate(_over_zeros(behind)):
        if value >> bit & 1:
            result ^= image
    return result


@functools.cache
def _over_zeros(count: int) -> tuple[int, ...]:
    """Where each bit of the register is after that many zero bytes."""
    return tuple(checksum(bytes(count), 1 << bit) for bit in range(32))


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()
