"""Every test gets a daemon on fresh folders; afterwards nothing of it is left on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.csi.kit import Driver, need_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and say why."""
    need_root(item for item in items if Path(__file__).parent in item.path.parents)


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
