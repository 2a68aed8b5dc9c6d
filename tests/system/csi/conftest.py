"""Every test gets a daemon on fresh folders; afterwards nothing of it is left on the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.csi.kit import Driver

_PROGRAMS = ("mkfs.ext4", "mkfs.xfs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and say why."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append("needs root (mounts, loop devices)")
    elif not os.access("/dev/loop-control", os.W_OK):
        reasons.append("needs /dev/loop-control")
    reasons += [f"{name} is not installed" for name in _PROGRAMS if not shutil.which(name)]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            if reasons:
                item.add_marker(pytest.mark.skip(reason=reasons[0]))


@pytest.fixture
def make_driver(short_tmp: Path) -> Iterator[Callable[..., Driver]]:
    """Makes a daemon that is not started yet; arguments are settings ("key=value")."""
    made: list[Driver] = []

    def make(*settings: str) -> Driver:
        root = short_tmp / str(len(made))
        root.mkdir()
        made.append(Driver(root, *settings))
        return made[-1]

    yield make
    for driver in made:
        driver.clean()


@pytest.fixture
def driver(make_driver: Callable[..., Driver]) -> Driver:
    """A daemon that serves."""
    return make_driver().start()
