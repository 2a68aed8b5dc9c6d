"""What is on an image, and the one block of it that we rewrite."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.csi.host import crc32c, ext4, filesystems
from plugins.csi.host.filesystems import BLANK, EXT4, UNKNOWN, XFS, Filesystem

SIZE = 300 << 20


@pytest.fixture
def image(tmp_path: Path) -> Callable[[Filesystem | None], int]:
    """A descriptor of a sparse image, formatted or blank."""

    def make(kind: Filesystem | None) -> int:
        path = tmp_path / "image"
        with path.open("wb") as file:
            file.truncate(SIZE)
        if kind:
            if not shutil.which(kind.mkfs[0]):
                pytest.skip(f"{kind.mkfs[0]} is not installed")
            subprocess.run([*kind.mkfs, path], check=True, capture_output=True)
        return os.open(path, os.O_RDWR)

    return make


@pytest.mark.parametrize("kind", [EXT4, XFS])
def test_what_mkfs_made_is_recognised(image: Callable[..., int], kind: Filesystem) -> None:
    fd = image(kind)
    assert filesystems.detect(fd) == kind.name
    os.close(fd)


def test_blank_means_that_nothing_at_all_was_written(image: Callable[..., int]) -> None:
    fd = image(None)
    assert filesystems.detect(fd) == BLANK
    os.pwrite(fd, b"x", SIZE - 1)
    assert filesystems.detect(fd) == UNKNOWN
    os.pwrite(fd, b"LUKS", 0)
    assert filesystems.detect(fd) == UNKNOWN
    os.close(fd)


@pytest.mark.parametrize("kind", [EXT4, XFS])
def test_the_smallest_volume_can_be_formatted(tmp_path: Path, kind: Filesystem) -> None:
    if not shutil.which(kind.mkfs[0]):
        pytest.skip(f"{kind.mkfs[0]} is not installed")
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(kind.minimum)
    subprocess.run([*kind.mkfs, path], check=True, capture_output=True)


def test_a_new_uuid_leaves_a_sound_filesystem(image: Callable[..., int], tmp_path: Path) -> None:
    fd, new = image(EXT4), uuid.uuid4()
    block = os.pread(fd, ext4.SIZE, ext4.OFFSET)
    os.pwrite(fd, ext4.with_uuid(block, new.bytes), ext4.OFFSET)
    os.close(fd)
    subprocess.run(["e2fsck", "-fn", tmp_path / "image"], check=True, capture_output=True)
    listing = subprocess.run(["tune2fs", "-l", tmp_path / "image"], check=True, capture_output=True, text=True).stdout
    assert str(new) in listing


def test_a_damaged_superblock_is_not_made_to_look_sound(image: Callable[..., int]) -> None:
    fd = image(EXT4)
    block = os.pread(fd, ext4.SIZE, ext4.OFFSET)
    os.close(fd)
    damaged = bytes((*block[:4], block[4] ^ 1, *block[5:]))
    assert (ext4.sound(block), ext4.sound(damaged)) == (True, False)
    assert ext4.sound(ext4.with_uuid(block, uuid.uuid4().bytes))
    assert not ext4.sound(ext4.with_uuid(damaged, uuid.uuid4().bytes))


def test_what_is_no_superblock_is_not_changed() -> None:
    with pytest.raises(ValueError, match="superblock"):
        ext4.with_uuid(bytes(ext4.SIZE), bytes(16))


def test_the_checksum_is_crc32c() -> None:
    assert crc32c.checksum(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C


@given(st.binary(max_size=40), st.data())
def test_a_change_changes_the_checksum_by_as_much(data: bytes, draw: st.DataObject) -> None:
    begin = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(begin, len(data)))
    other = draw.draw(st.binary(min_size=end - begin, max_size=end - begin))
    difference = bytes(a ^ b for a, b in zip(data[begin:end], other, strict=True))
    changed = data[:begin] + other + data[end:]
    assert crc32c.checksum(changed) == crc32c.checksum(data) ^ crc32c.change(difference, len(data) - end)
