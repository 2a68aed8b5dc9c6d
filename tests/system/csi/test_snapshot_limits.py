"""What snapshots may take: space of the pool, and time of the writers."""

from __future__ import annotations

import os
from collections.abc import Callable

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.copies import assert_no_snapshot, copy, fill, snapshot, snapshot_images, unsnapshot
from tests.system.csi.kit import SIZES, Driver, refused


def test_a_pool_without_space_refuses_and_keeps_nothing(make_driver: Callable[..., Driver]) -> None:
    driver = make_driver("embedded_size=512MiB", "reserve=400MiB", "overcommit=0.5").start()
    volume = driver.create("block", size=16 << 20)
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    with driver.target.open("r+b") as device:
        device.write(os.urandom(16 << 20))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "left for volumes"):
        for number in range(2):
            filler = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
            driver.create("block", f"filler{number}", filler - filler % (1 << 20))
            snapshot(driver, volume)
    assert_no_snapshot(driver)


def test_deleting_snapshots_gives_their_promise_back(driver: Driver) -> None:
    def capacity() -> int:
        return driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity

    volume = driver.ready("ext4")
    fill(driver.target)
    before = capacity()
    taken = [snapshot(driver, volume, name).snapshot_id for name in ("one", "two")]
    assert capacity() < before - (20 << 16) // 2
    held = capacity()
    driver.restart()
    assert capacity() == held
    for snapshot_id in taken:
        unsnapshot(driver, snapshot_id)
    assert capacity() == before


def test_writers_are_not_kept_waiting_for_longer_than_allowed(make_driver: Callable[..., Driver]) -> None:
    driver = make_driver("stall_limit=10ms").start()
    volume = driver.ready("block")
    with driver.target.open("r+b") as device:
        for place in range(0, SIZES["block"], 16384):
            device.seek(place)
            device.write(os.urandom(4096))
        device.flush()
        os.fsync(device.fileno())
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "stall_limit"):
        snapshot(driver, volume)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "stall_limit"):
        copy(driver, volume, "block")
    assert (snapshot_images(driver), len(driver.images())) == ([], 1)
    driver.unpublish(volume)
    driver.unstage(volume)
    snapshot(driver, volume)
