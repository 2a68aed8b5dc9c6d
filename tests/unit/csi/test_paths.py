"""Paths from requests: text first, then the walk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument
from plugins.csi.host.paths import Roots

BAD = ["", "a", "a/b", "/", "//r/a", "/r", "/r/", "/r/..", "/r/a/..", "/r/../r/a", "/r/./a", "/r//a", "/rr/a", "/r/\0"]


@pytest.mark.parametrize("text", [*BAD, "/r/" + "x" * 256, "/r" + "/x" * 2048])
def test_texts_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="here"):
        Roots([Path("/r")]).place(text, "here")


def test_a_text_below_a_root_is_taken_apart() -> None:
    place = Roots([Path("/other"), Path("/r/")]).place("/r/a/b/c/", "here")
    assert (place.root, place.parent, place.name, place.path) == ("/r", "a/b", "c", "/r/a/b/c")


@given(st.text())
def test_no_text_leads_out_of_the_root(text: str) -> None:
    try:
        place = Roots([Path("/r")]).place("/r/" + text, "here")
    except InvalidArgument:
        return
    assert os.path.normpath(place.path) == place.path
    assert place.path.startswith("/r/")
    assert "/" not in place.name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "outside" / "secret").mkdir(parents=True)
    (tmp_path / "root" / "file").touch()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "in").symlink_to("inside")
    (tmp_path / "root" / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("path", ["out", "in", "out/secret", "in/x", "loop", "loop/x", "file/x"])
def test_links_and_files_on_the_way_are_refused(tree: Path, path: str) -> None:
    with pytest.raises(InvalidArgument):
        Roots([tree / "root"]).place(f"{tree}/root/{path}", "here").look()


def test_what_is_not_there_is_none(tree: Path) -> None:
    roots = Roots([tree / "root", tree / "nowhere"])
    assert roots.place(f"{tree}/root/inside/new", "here").look() is None
    assert roots.place(f"{tree}/root/new/new", "here").look() is None
    assert roots.place(f"{tree}/nowhere/new", "here").look() is None


def test_what_is_there_is_found(tree: Path) -> None:
    status = Roots([tree / "root"]).place(f"{tree}/root/inside", "here").look()
    assert status is not None
    assert (status.ino, status.mount_root) == ((tree / "root" / "inside").stat().st_ino, False)


def test_the_root_itself_may_be_a_link(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "root")
    assert Roots([tree / "link"]).place(f"{tree}/link/inside", "here").look() is not None


def test_a_directory_that_was_swapped_is_still_the_one_that_was_opened(tree: Path) -> None:
    place = Roots([tree / "root"]).place(f"{tree}/root/inside/new", "here")
    with place.directory() as directory:
        assert directory is not None
        (tree / "root" / "inside").rename(tree / "root" / "moved")
        (tree / "root" / "inside").symlink_to(tree / "outside" / "secret")
        os.mkdir(place.name, dir_fd=directory)
    assert (tree / "root" / "moved" / "new").is_dir()
    assert list((tree / "outside" / "secret").iterdir()) == []
