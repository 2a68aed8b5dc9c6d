"""What is deleted in a volume goes back to the pool: by the mount option, and by the trim in the background."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable

import pytest

from plugins.csi.host import syscalls
from tests.system.csi.kit import Driver

MakeDriver = Callable[..., Driver]
DATA = 32 << 20
SIZES = {"ext4": 128 << 20, "xfs": 300 << 20}


def allocated(driver: Driver, volume: str) -> int:
    """Bytes of the pool that a volume's image takes."""
    return os.stat(driver.pool / "volumes" / f"{volume.partition('.')[0]}.img").st_blocks * 512


def published(driver: Driver, fs: str, flags: tuple[str, ...] = ()) -> str:
    """A volume in use, mounted with these flags."""
    volume = driver.create(fs, size=SIZES[fs])
    driver.stage(volume, fs, flags=flags)
    driver.publish(volume, fs, flags=flags)
    return volume


def write_and_delete(driver: Driver, volume: str) -> int:
    """Data written durably into a volume and deleted again; returns what the image took in between."""
    file = driver.target / "data"
    with file.open("wb") as opened:
        opened.write(os.urandom(DATA))
        opened.flush()
        os.fsync(opened.fileno())
    taken = allocated(driver, volume)
    assert taken > DATA
    file.unlink()
    _commit(driver)
    return taken


def _commit(driver: Driver) -> None:
    """Let the filesystem write its journal: only then what was freed is free."""
    fd = os.open(driver.target, os.O_RDONLY)
    syscalls.syncfs(fd)
    os.close(fd)


def shrinks(driver: Driver, volume: str, below: int, seconds: float = 15) -> bool:
    """Whether an image takes less than that soon."""
    until = time.monotonic() + seconds
    while allocated(driver, volume) >= below and time.monotonic() < until:
        _commit(driver)  # XFS frees the blocks of a deleted file some time later, and discards after that
        time.sleep(0.05)
    return allocated(driver, volume) < below


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_the_discard_option_gives_space_back_at_once(make_driver: MakeDriver, fs: str) -> None:
    driver = make_driver("trim_interval=0").start()
    volume = published(driver, fs, ("discard",))
    free = os.statvfs(driver.pool).f_bavail * os.statvfs(driver.pool).f_frsize
    taken = write_and_delete(driver, volume)
    assert shrinks(driver, volume, taken - DATA + (2 << 20))
    assert os.statvfs(driver.pool).f_bavail * os.statvfs(driver.pool).f_frsize > free - (8 << 20)
    driver.remove(volume)
    driver.assert_nothing_left()


def test_without_the_option_and_the_trim_space_stays_taken(make_driver: MakeDriver) -> None:
    driver = make_driver("trim_interval=0").start()
    volume = published(driver, "ext4")
    taken = write_and_delete(driver, volume)
    assert allocated(driver, volume) > taken - (1 << 20)
    driver.remove(volume)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_the_trim_in_the_background_gives_space_back(make_driver: MakeDriver, fs: str) -> None:
    driver = make_driver("trim_interval=0.2").start()
    volume = published(driver, fs)
    taken = write_and_delete(driver, volume)
    assert shrinks(driver, volume, taken - DATA + (2 << 20))
    driver.remove(volume)  # a trim that is under way keeps nobody from letting go
    driver.assert_nothing_left()
    driver.stop()


def test_a_round_that_is_due_begins_soon_after_a_start(make_driver: MakeDriver) -> None:
    driver = make_driver("trim_interval=1h").start()
    volume = published(driver, "ext4")
    taken = write_and_delete(driver, volume)
    driver.stop()
    with sqlite3.connect(driver.root / "state" / "state.db") as db:
        changed = db.execute("UPDATE pool SET value = '0' WHERE name = 'last trim'").rowcount
    db.close()
    assert changed == 1
    driver.start()
    assert shrinks(driver, volume, taken - DATA + (2 << 20))
    driver.remove(volume)


def test_raw_volumes_discard_by_themselves(driver: Driver) -> None:
    volume = driver.create("block", size=64 << 20)
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    with driver.target.open("r+b") as device:
        device.write(os.urandom(DATA))
        device.flush()
        os.fsync(device.fileno())
        assert allocated(driver, volume) >= DATA
        fcntl.ioctl(device, 0x1277, struct.pack("=2Q", 0, DATA))  # BLKDISCARD
    assert allocated(driver, volume) == 0
    driver.remove(volume)
