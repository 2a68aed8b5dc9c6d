"""Device nodes as they lie in the file system, and when one that is missing is looked at again."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from plugins.device import nodes
from plugins.device.hardware import Node
from plugins.device.sources.pending import Pending
from tests.unit.device.kit import device

NULL = Node("/dev/null", "c", 1, 3)


def test_the_very_device_is_fine() -> None:
    assert nodes.problem(NULL) == ""


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node("/dev/null", "b", 1, 3), "a character device, not the device"),
        (Node("/dev/null", "c", 1, 5), "is device 1:3, the one found was 1:5"),
        (Node("/dev/no-such-node", "c", 1, 3), "is not there"),
        (Node("/dev/fd/0/x", "c", 1, 3), "/dev/fd/0/x"),
        (Node("/dev", "c", 1, 3), "is a folder"),
    ],
)
def test_anything_else_is_not(node: Node, said: str) -> None:
    assert said in nodes.problem(node)


def test_a_file_or_a_link_in_its_place_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "folder").symlink_to("/dev")
    os.mkfifo(tmp_path / "pipe")
    said = {n: nodes.problem(Node(str(tmp_path / n), "c", 1, 3)) for n in ("file", "link", "folder/null", "pipe", "x")}
    assert "a regular file" in said["file"]
    assert "a symbolic link" in said["link"]
    assert "leads through a symbolic link to /dev/null" in said["folder/null"]
    assert "a pipe" in said["pipe"]
    assert "is not there" in said["x"]


def test_devices_without_a_usable_node_are_looked_at_again_at_growing_distances() -> None:
    pending, found = Pending(), device("a", problem="not there")
    assert pending.due_in(0) is None
    pending.update({"/a": found}, 0)
    times, now = [], 0.0
    for _ in range(16):
        wait = pending.due_in(now)
        assert wait is not None
        assert pending.take_due(now + wait / 2) == []
        now += wait
        times.append(now)
        assert pending.take_due(now) == ["/a"]
        pending.update({"/a": found}, now)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    assert gaps[0] == pytest.approx(0.01)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(gaps))
    assert gaps[-1] == pytest.approx(30)


def test_a_new_one_is_looked_at_soon_and_a_good_or_gone_one_not_at_all() -> None:
    pending = Pending()
    pending.update({"/a": device("a", problem="x")}, 0)
    pending.take_due(100)
    pending.update({"/b": device("b", problem="x")}, 100)
    assert pending.due_in(100) == pytest.approx(0.01)
    pending.update({"/a": device("a"), "/b": None}, 100)
    assert pending.due_in(100) is None
