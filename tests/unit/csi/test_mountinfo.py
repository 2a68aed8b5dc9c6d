"""The kernel's list of mounts, with all that a path may contain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.csi.host import mountinfo

LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"


def one(line: bytes) -> mountinfo.Mount:
    [mount] = mountinfo.parse([line])
    return mount


def test_every_field_is_read() -> None:
    mount = one(LINE)
    assert (mount.id, mount.parent, mount.dev) == (36, 35, os.makedev(98, 0))
    assert (mount.root, mount.path) == ("/mnt1", "/mnt2")
    assert mount.options == {"rw", "noatime"}
    assert mount.propagation == ("master:1", "shared:7")
    assert (mount.filesystem, mount.source) == ("ext3", "/dev/root")
    assert mount.super_options == {"rw", "errors=continue"}
    assert mount.shared


def test_there_may_be_no_optional_fields() -> None:
    mount = one(b"36 35 0:5 / / rw - tmpfs none rw")
    assert (mount.propagation, mount.shared) == ((), False)


def test_a_slave_is_not_shared() -> None:
    assert not one(LINE.replace(b" shared:7", b"")).shared


@pytest.mark.parametrize("line", [b"garbage", b"36 35 98:0 / /", LINE.replace(b" - ", b" "), b"x y 1:2 / / rw - a b c"])
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        one(line)


@given(st.binary(min_size=1).filter(lambda path: b"\0" not in path))
def test_paths_come_back_as_they_were(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in b"/" + name)
    mount = one(b"1 2 3:4 / %s rw - xfs /dev/a rw" % escaped)
    assert os.fsencode(mount.path) == b"/" + name


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/b/c", "/a/b"), ("/a/bc", "/a"), ("/a", "/a"), ("/z", "/"), ("/a/b", "/a/b")],
)
def test_a_path_lies_on_the_longest_mount_above_it(path: str, expected: str) -> None:
    mounts = [one(b"1 2 3:4 / %s rw - xfs /dev/a rw" % p) for p in (b"/", b"/a", b"/a/b")]
    found = mountinfo.containing(mounts, Path(path))
    assert found is not None
    assert found.path == expected


def test_the_last_mount_at_a_path_counts() -> None:
    mounts = [one(b"%d 1 3:%d / /a rw - xfs /dev/a rw" % (n, n)) for n in (10, 11)]
    found = mountinfo.containing(mounts, Path("/a/b"))
    assert found is not None
    assert found.id == 11


def test_this_process_has_a_root() -> None:
    assert any(mount.path == "/" for mount in mountinfo.read())
