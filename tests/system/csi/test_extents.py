"""The map of blocks of real files on a pool, against a comparison of every byte."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.csi.pool import extents
from plugins.csi.pool.extents import Range
from tests.system.csi.kit import Driver

MIB = 1 << 20
BLOCK = 4096
SIZE = 32 * MIB


@pytest.fixture
def folder(driver: Driver) -> Iterator[Path]:
    """A directory on a filesystem that shares blocks."""
    place = driver.pool / "test"
    place.mkdir()
    yield place


def copy(source: Path, name: str) -> Path:
    target = source.with_name(name)
    subprocess.run(["cp", "--reflink=always", source, target], check=True)
    return target


def differing(base: Path, target: Path) -> set[int]:
    """Numbers of the blocks that differ, by reading both."""
    a, b = base.read_bytes(), target.read_bytes()
    return {n for n in range(len(b) // BLOCK) if a[n * BLOCK : (n + 1) * BLOCK] != b[n * BLOCK : (n + 1) * BLOCK]}


def blocks(ranges: Iterator[Range]) -> set[int]:
    return {number for found in ranges for number in range(found.start // BLOCK, -(-found.end // BLOCK))}


def delta(base: Path, target: Path, start: int = 0) -> list[Range]:
    with base.open("rb") as one, target.open("rb") as other:
        return list(extents.changed(one.fileno(), other.fileno(), start, target.stat().st_size))


def allocated(file: Path, start: int = 0) -> list[Range]:
    with file.open("rb") as opened:
        return list(extents.allocated(opened.fileno(), start, file.stat().st_size))


def scribble(file: Path, seed: int, writes: int) -> None:
    """Random writes, holes and preallocations."""
    chance = random.Random(seed)
    with file.open("r+b") as opened:
        for _ in range(writes):
            start, length = chance.randrange(SIZE // BLOCK) * BLOCK, chance.randrange(1, 64) * BLOCK
            length = min(length, SIZE - start)
            match chance.randrange(10):
                case 0:
                    flags = ["--punch-hole", "--offset", str(start), "--length", str(length)]
                    subprocess.run(["fallocate", *flags, file], check=True)
                case 1:
                    flags = ["--keep-size", "--offset", str(start), "--length", str(length)]
                    subprocess.run(["fallocate", *flags, file], check=True)
                case _:
                    opened.seek(start)
                    opened.write(chance.randbytes(length))
                    opened.flush()


@pytest.mark.parametrize("seed", range(8))
def test_no_changed_block_is_missed(folder: Path, seed: int) -> None:
    file = folder / "image"
    with file.open("wb") as opened:
        opened.truncate(SIZE)
    scribble(file, seed, 60)
    snapshots = [copy(file, "0")]
    for number in range(1, 4):
        scribble(file, seed * 100 + number, 25)
        snapshots.append(copy(file, str(number)))
    for base in range(4):
        for target in range(base, 4):
            wanted = differing(snapshots[base], snapshots[target])
            found = blocks(iter(delta(snapshots[base], snapshots[target])))
            assert not wanted - found
            assert base != target or not found
    content = file.read_bytes()
    data = {n for n in range(SIZE // BLOCK) if any(content[n * BLOCK : (n + 1) * BLOCK])}
    assert not data - blocks(iter(allocated(snapshots[3]))), "a block with data that is not allocated"


def test_preallocated_space_is_a_hole_until_it_is_written(folder: Path) -> None:
    file = folder / "image"
    subprocess.run(["fallocate", "--length", str(SIZE), file], check=True)
    assert allocated(file) == []
    before = copy(file, "before")
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"x" * BLOCK, 5 * BLOCK)
    assert allocated(file) == [Range(5 * BLOCK, 6 * BLOCK)]
    assert delta(before, copy(file, "after")) == [Range(5 * BLOCK, 6 * BLOCK)]


def test_data_that_is_only_in_memory_is_seen(folder: Path) -> None:
    file = folder / "image"
    with file.open("wb") as opened:
        opened.truncate(SIZE)
        opened.seek(3 * BLOCK)
        opened.write(b"x" * BLOCK)
        opened.flush()
        assert allocated(file) == [Range(3 * BLOCK, 4 * BLOCK)]


def test_a_walk_may_begin_anywhere(folder: Path) -> None:
    file = folder / "image"
    with file.open("wb") as opened:
        opened.truncate(SIZE)
    scribble(file, 7, 40)
    base = copy(file, "base")
    scribble(file, 8, 40)
    whole, data = delta(base, file), allocated(file)
    for start in (0, 1, BLOCK, 5 * MIB + 17, SIZE - 1):
        assert delta(base, file, start) == [Range(max(r.start, start), r.end) for r in whole if r.end > start]
        assert allocated(file, start) == [Range(max(r.start, start), r.end) for r in data if r.end > start]


def test_more_extents_than_one_answer_holds(folder: Path) -> None:
    file = folder / "image"
    with file.open("wb") as opened:
        opened.truncate(SIZE)
        for number in range(0, SIZE // BLOCK, 2):
            os.pwrite(opened.fileno(), b"x", number * BLOCK)
    assert len(allocated(file)) == SIZE // BLOCK // 2 > 2048
    base = copy(file, "base")
    with file.open("r+b") as opened:
        for number in range(1, SIZE // BLOCK, 6):
            os.pwrite(opened.fileno(), b"y", number * BLOCK)
    assert blocks(iter(delta(base, file))) == differing(base, file)


def test_what_was_cut_off_or_appended(folder: Path) -> None:
    file = folder / "image"
    file.write_bytes(os.urandom(4 * MIB))
    base = copy(file, "base")
    with file.open("r+b") as opened:
        opened.truncate(8 * MIB)
    assert delta(base, file) == []
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"x" * BLOCK, 6 * MIB)
    assert delta(base, file) == [Range(6 * MIB, 6 * MIB + BLOCK)]
