"""The daemon is killed at every step of a snapshot's life; no filesystem stays frozen, and nothing half made stays."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable

import grpc
import pytest

from plugins.csi import faultpoints as points
from tests.system.csi.copies import (
    Place,
    assert_no_snapshot,
    checksums,
    copy,
    fill,
    listed,
    snapshot,
    snapshot_images,
    unsnapshot,
)
from tests.system.csi.kit import Driver, dies, refused


@pytest.mark.parametrize("consistency", ["crash", "filesystem"])
@pytest.mark.parametrize("point", points.SNAPSHOT)
def test_killed_while_it_is_made(driver: Driver, point: str, consistency: str) -> None:
    volume = driver.ready("ext4")
    before = fill(driver.target, files=3)
    driver.restart(fault=point)
    with dies(driver):
        snapshot(driver, volume, consistency=consistency)
    (driver.target / "written").write_bytes(b"the helper has let it go before anything starts again")
    (driver.target / "written").unlink()
    driver.restart()
    assert len(listed(driver)) == len(snapshot_images(driver)) == (point == "csi.snapshot.recorded")
    taken = snapshot(driver, volume, consistency=consistency)
    assert len(snapshot_images(driver)) == 1
    restored = copy(driver, taken.snapshot_id, "ext4")
    assert checksums(Place(driver, "copy").show(restored, "ext4")) == before
    unsnapshot(driver, taken.snapshot_id)
    assert_no_snapshot(driver)


@pytest.mark.parametrize("point", points.SNAPSHOT_DELETE)
def test_killed_while_it_is_deleted(driver: Driver, point: str) -> None:
    driver.restart(fault=point)
    taken = snapshot(driver, driver.create("ext4"))
    with dies(driver):
        unsnapshot(driver, taken.snapshot_id)
    driver.restart()
    assert_no_snapshot(driver)
    unsnapshot(driver, taken.snapshot_id)


def test_the_next_start_thaws_what_daemon_and_helper_left_frozen(make_driver: Callable[..., Driver]) -> None:
    """Both are killed at once, as when a pod is: the intent names the volume, and start-up lets it go on."""
    driver = make_driver().start()
    volume = driver.ready("ext4")
    driver.restart(fault="csi.snapshot.named")  # reached after the thaw: what matters is the intent it leaves
    with dies(driver):
        snapshot(driver, volume, consistency="filesystem")
    subprocess.run(["fsfreeze", "--freeze", driver.target], check=True)
    try:
        driver.start()
        written = threading.Thread(target=(driver.target / "written").write_bytes, args=(b"goes on",), daemon=True)
        written.start()
        written.join(10)
        assert not written.is_alive()
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", driver.target], check=False, capture_output=True)
    assert_no_snapshot(driver)


def test_a_helper_that_is_killed_leaves_nothing_frozen_and_no_snapshot(make_driver: Callable[..., Driver]) -> None:
    """Its parent notices, thaws by itself and takes the snapshot back: whether the cut was whole nobody knows."""
    driver = make_driver().start()
    volume = driver.ready("ext4")
    stop = threading.Event()

    def hunt() -> None:
        assert driver.process
        while not stop.is_set():
            children = f"/proc/{driver.process.popen.pid}/task"
            for task in os.listdir(children):
                for pid in _children(f"{children}/{task}/children"):
                    os.kill(pid, signal.SIGKILL)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        with refused(grpc.StatusCode.INTERNAL, "helper"):
            snapshot(driver, volume, consistency="filesystem")
    finally:
        stop.set()
        hunter.join()
    (driver.target / "written").write_bytes(b"goes on")
    assert_no_snapshot(driver)
    snapshot(driver, volume, consistency="filesystem")


def _children(path: str) -> list[int]:
    try:
        with open(path) as file:
            return [int(pid) for pid in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
