"""Limits as classes write them, the cgroup that keeps them, and the size that a volume grows to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument, OutOfRange
from plugins.csi import expansion, limits
from plugins.csi.host import cgroups
from plugins.csi.host.cgroups import Limit
from plugins.csi.model import Volume

MIB = 1 << 20


def volume(size: int) -> Volume:
    return Volume(1, "id", "token", "name", size, "ext4", False, False, False, {}, 0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("500", 500), ("2k", 2000), ("2K", 2000), ("50Mi", 50 * MIB), ("1G", 10**9), ("max", 0)],
)
def test_a_limit_is_a_number_with_a_unit(text: str, value: int) -> None:
    assert limits.parse({"readBytesPerSecond": text}) == Limit(read_bytes=value)


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1 x", "0.1", "1e3", "9" * 40, "Max", "max "])
def test_everything_else_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="writeIOPS"):
        limits.parse({"writeIOPS": text})


def test_the_mutable_class_wins_name_by_name() -> None:
    found = limits.limit_of({"readIOPS": "1", "writeIOPS": "2"}, {"readIOPS": "max", "writeBytesPerSecond": "3"})
    assert found == Limit(write_operations=2, write_bytes=3)


def test_one_line_says_all_of_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "io.max"
    file.touch()
    io_max = cgroups.IoMax(file)
    io_max.set(os.makedev(7, 12), Limit())
    assert file.read_text() == ""  # nothing to take back
    io_max.set(os.makedev(7, 12), Limit(read_bytes=5, write_operations=6))
    io_max.set(os.makedev(7, 1), Limit())
    io_max.set(os.makedev(7, 12), Limit())
    assert file.read_text().splitlines() == [
        "7:12 rbps=5 wbps=max riops=max wiops=6",
        "7:12 rbps=max wbps=max riops=max wiops=max",
    ]


def test_the_cgroup_above_all_pods_is_found(tmp_path: Path) -> None:
    assert "cgroup v1" in cgroups.find(tmp_path, None)[1]
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert "io controller" in cgroups.find(tmp_path, None)[1]
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    assert "kubepods" in cgroups.find(tmp_path, None)[1]
    for name in ("kubepods", "kubepods.slice", "own/parent"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "io.max").touch()
    for parent, wanted in ((None, "kubepods.slice"), ("kubepods", "kubepods"), ("own/parent", "own/parent")):
        found, reason = cgroups.find(tmp_path, parent)
        assert (found and found.path, reason) == (tmp_path / wanted / "io.max", "")


@given(st.integers(4096, 1 << 40), st.integers(0, 1 << 41), st.integers(0, 1 << 41))
def test_a_volume_grows_into_the_range_and_never_shrinks(has: int, required: int, limit: int) -> None:
    try:
        size = expansion._planned(volume(has), required, limit)
    except OutOfRange:
        fits = -(-max(required, has) // 4096) * 4096
        assert limit and (limit < has or limit < required or limit < fits)
        return
    assert size >= max(has, required)
    assert not limit or size <= limit
    assert size == has or size % 4096 == 0
    assert size == has or size - required < MIB


@pytest.mark.parametrize(("required", "limit"), [(-1, 0), (0, -1), (-5, -5)])
def test_negative_numbers_are_refused(required: int, limit: int) -> None:
    with pytest.raises(InvalidArgument):
        expansion._planned(volume(MIB), required, limit)
