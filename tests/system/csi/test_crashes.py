"""The daemon is killed at every named point; the same call repeated succeeds, and nothing is left over.

All tests here share one pool: each finds it as the one before left it, which must be empty.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugins.csi import faultpoints as points
from tests.system.csi.kit import SIZES, Driver, dies
from tools import leaks


@pytest.fixture(scope="module")
def shared() -> Iterator[Driver]:
    root = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    driver = Driver(root)
    yield driver
    driver.clean()
    shutil.rmtree(root)


@pytest.fixture
def driver(shared: Driver) -> Iterator[Driver]:
    """Not started: each test starts it with its own fault. Afterwards it must be as if nothing had been."""
    yield shared
    if shared.process and shared.process.popen.poll() is None:
        nothing_is_left(shared)
        shared.process.kill()
    else:
        shared.clean()


def matrix(**operations: tuple[str, ...]) -> list[object]:
    """(kind, point) for each kind's points."""
    return [pytest.param(kind, point, id=f"{kind}-{point}") for kind, some in operations.items() for point in some]


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.CREATE, ext4=points.CREATE))
def test_create(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    with dies(driver):
        driver.create(kind)
    driver.restart()
    assert len(driver.images()) == (point in ("csi.create.recorded", "csi.create.named"))
    volume = driver.create(kind)
    assert len(driver.images()) == 1
    use(driver, volume, kind)
    finish(driver, volume)


@pytest.mark.parametrize(("kind", "point"), matrix(ext4=points.DELETE))
def test_delete(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create(kind)
    with dies(driver):
        driver.delete(volume)
    driver.restart()
    driver.delete(volume)
    nothing_is_left(driver)
    finish(driver, driver.create(kind))  # the name is free again


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.STAGE_BLOCK, ext4=points.STAGE_MOUNT))
def test_stage(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create(kind)
    with dies(driver):
        driver.stage(volume, kind)
    driver.restart()
    driver.stage(volume, kind)
    assert len(driver.loops()) == 1
    use(driver, volume, kind)
    finish(driver, volume)


@pytest.mark.parametrize("point", points.STAGE_MOUNT)
def test_stage_that_is_not_repeated_but_undone(driver: Driver, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create("ext4")
    with dies(driver):
        driver.stage(volume, "ext4")
    driver.restart()
    finish(driver, volume)


@pytest.mark.parametrize("point", points.FORMAT)
def test_first_format(driver: Driver, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create("", size=SIZES["xfs"])
    with dies(driver):
        driver.stage(volume, "xfs")
    driver.restart()
    driver.stage(volume, "xfs")
    assert len(driver.images()) == 1
    use(driver, volume, "xfs")
    finish(driver, volume)


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.PUBLISH, ext4=points.PUBLISH))
def test_publish(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create(kind)
    driver.stage(volume, kind)
    with dies(driver):
        driver.publish(volume, kind)
    driver.restart()
    use(driver, volume, kind)
    finish(driver, volume)


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.PUBLISH, ext4=points.PUBLISH))
def test_publish_that_is_not_repeated_but_undone(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create(kind)
    driver.stage(volume, kind)
    with dies(driver):
        driver.publish(volume, kind)
    driver.restart()
    finish(driver, volume)


@pytest.mark.parametrize("repeat", [True, False], ids=["repeated", "undone"])
@pytest.mark.parametrize("point", points.PUBLISH_VIEW)
def test_publish_read_only_device(driver: Driver, point: str, repeat: bool) -> None:
    driver.start(fault=point)
    volume = driver.create("block")
    driver.stage(volume, "block")
    with dies(driver):
        driver.publish(volume, "block", read_only=True)
    driver.restart()
    if repeat:
        driver.publish(volume, "block", read_only=True)
        assert len(driver.loops()) == 2
    finish(driver, volume)


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.UNPUBLISH, ext4=points.UNPUBLISH))
def test_unpublish(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.ready(kind)
    driver.write(kind, b"kept")
    with dies(driver):
        driver.unpublish(volume)
    driver.restart()
    driver.unpublish(volume)
    assert not driver.target.exists()
    driver.publish(volume, kind)
    assert driver.read(kind) == b"kept"
    finish(driver, volume)


@pytest.mark.parametrize("point", points.UNPUBLISH_VIEW)
def test_unpublish_read_only_device(driver: Driver, point: str) -> None:
    driver.start(fault=point)
    volume = driver.create("block")
    driver.stage(volume, "block")
    driver.publish(volume, "block", read_only=True)
    with dies(driver):
        driver.unpublish(volume)
    driver.restart()
    driver.unpublish(volume)
    assert len(driver.loops()) == 1
    finish(driver, volume)


@pytest.mark.parametrize(("kind", "point"), matrix(block=points.UNSTAGE_BLOCK, ext4=points.UNSTAGE_MOUNT))
def test_unstage(driver: Driver, kind: str, point: str) -> None:
    driver.start(fault=point)
    volume = driver.ready(kind)
    driver.write(kind, b"kept")
    driver.unpublish(volume)
    with dies(driver):
        driver.unstage(volume)
    driver.restart()
    driver.unstage(volume)
    assert (driver.loops(), driver.mounts()) == ([], [])
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert driver.read(kind) == b"kept"
    finish(driver, volume)


@pytest.mark.parametrize("point", points.POOL)
def test_making_the_pool(make_driver: Callable[..., Driver], point: str) -> None:
    driver = make_driver()
    assert driver.launch(fault=point).popen.wait(20) == -9
    driver.start()
    finish(driver, driver.ready("ext4"))


@pytest.mark.parametrize("kind", ["block", "ext4", "xfs"])
def test_a_volume_in_use_does_not_notice(driver: Driver, kind: str) -> None:
    driver.start()
    volume = driver.ready(kind)
    driver.write(kind, b"before")
    driver.restart()
    assert driver.read(kind) == b"before"
    driver.write(kind, b"after")
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert driver.read(kind) == b"after"
    assert len(driver.loops()) == 1
    finish(driver, volume)


def use(driver: Driver, volume: str, kind: str) -> None:
    """Stage and publish, again or for the first time, and see that data goes in and comes out."""
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    driver.write(kind, b"data")
    assert driver.read(kind) == b"data"


def finish(driver: Driver, volume: str) -> None:
    """Everything undone, whatever there is to undo."""
    driver.remove(volume)
    nothing_is_left(driver)


def nothing_is_left(driver: Driver) -> None:
    """Neither on the machine nor in the state."""
    driver.assert_nothing_left()
    db = sqlite3.connect(f"file:{driver.root}/state/state.db?mode=ro", uri=True)
    for table in ("volumes", "stagings", "publications", "intents"):
        assert db.execute(f"SELECT * FROM {table}").fetchall() == [], table
    db.close()
