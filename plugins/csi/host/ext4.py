"""The ext4 superblock: enough of it to tell it apart and to give a copy of a filesystem a UUID of its own.

Contract: "ext4 Data Structures and Algorithms", super block. It lies 1024 bytes into the device. With the feature
metadata_csum_seed no other checksum depends on the UUID, so the one block is all that changes; the copies of the
superblock in later block groups keep the template's UUID, which e2fsck puts right when it needs them.
"""

from __future__ import annotations

from plugins.csi.host import crc32c

OFFSET = 1024
SIZE = 1024

_MAGIC = (0x38, b"\x53\xef")
_BLOCKS, _BLOCKS_HIGH = 0x04, 0x150
_FIRST_BLOCK, _LOG_SIZE = 0x14, 0x18
_PER_GROUP, _INODES, _INODE_SIZE = 0x20, 0x28, 0x58
_64BIT = 0x80  # INCOMPAT_64BIT
_LEAST_USE = 52  # bitmaps, and the 50 blocks below which mkfs and resize2fs leave a group out
_INCOMPAT = 0x60
_UUID = 0x68
_HASH_SEED = 0xEC
_CHECKSUM = 0x3FC
_CSUM_SEED = 0x2000  # INCOMPAT_CSUM_SEED


def is_superblock(block: bytes) -> bool:
    """Whether this is an ext2, 3 or 4 superblock."""
    at, magic = _MAGIC
    return block[at : at + 2] == magic


def uuid(block: bytes) -> bytes:
    """The filesystem's UUID, 16 bytes."""
    return block[_UUID : _UUID + 16]


def lacks(block: bytes, size: int) -> bool:
    """Whether the filesystem could take more of a device of `size` bytes than it has.

    A last block group that could hold nothing but its own tables is left out by mkfs and resize2fs; that is no lack.
    """
    block_size = 1024 << _number(block, _LOG_SIZE)
    has = _number(block, _BLOCKS) | (_number(block, _BLOCKS_HIGH) << 32 if _number(block, _INCOMPAT) & _64BIT else 0)
    more = size // block_size - has
    if more <= 0 or (has - _number(block, _FIRST_BLOCK)) % _number(block, _PER_GROUP):
        return more > 0
    tables = _number(block, _INODES) * int.from_bytes(block[_INODE_SIZE : _INODE_SIZE + 2], "little") // block_size
    return more > tables + _LEAST_USE


def with_uuid(block: bytes, new: bytes) -> bytes:
    """The superblock with another UUID and hash seed (both `new`, 16 bytes), and its checksum changed with them.

    A superblock whose checksum was wrong before has a wrong one afterwards.

    Raises:
        ValueError: other checksums in this filesystem depend on its UUID, or it is no superblock.
    """
    if not is_superblock(block) or not _number(block, _INCOMPAT) & _CSUM_SEED:
        raise ValueError("not an ext4 superblock with metadata_csum_seed")
    changed = bytearray(block)
    changed[_UUID : _UUID + 16] = new
    changed[_HASH_SEED : _HASH_SEED + 16] = new
    begin, end = _UUID, _HASH_SEED + 16
    difference = bytes(old ^ now for old, now in zip(block[begin:end], changed[begin:end], strict=True))
    value = _number(block, _CHECKSUM) ^ crc32c.change(difference, _CHECKSUM - end)
    changed[_CHECKSUM : _CHECKSUM + 4] = value.to_bytes(4, "little")
    return bytes(changed)


def sound(block: bytes) -> bool:
    """Whether the superblock's checksum fits."""
    return crc32c.checksum(block[:_CHECKSUM]) == _number(block, _CHECKSUM)


def _number(block: bytes, at: int) -> int:
    return int.from_bytes(block[at : at + 4], "little")
