"""One daemon for all tests of the contract: they leave nothing in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.csi.kit import Driver, need_root
from tools import leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pool behind the socket is a mount."""
    need_root(item for item in items if Path(__file__).parent in item.path.parents)


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    root = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    made = Driver(root)
    try:
        yield made.start()
    finally:
        made.clean()
        shutil.rmtree(root)
