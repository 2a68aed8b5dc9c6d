"""Several callers at once: one is served, the others are told to come back, and nothing is made twice."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import Driver

OK, ABORTED = grpc.StatusCode.OK, grpc.StatusCode.ABORTED


def at_once(count: int, call: Callable[[int], object]) -> collections.Counter[grpc.StatusCode]:
    """Status codes of that many calls, started together."""
    start = threading.Barrier(count)

    def one(number: int) -> grpc.StatusCode:
        start.wait()
        try:
            call(number)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return OK

    with ThreadPoolExecutor(count) as pool:
        return collections.Counter(pool.map(one, range(count)))


def test_the_same_call_from_all_sides(driver: Driver) -> None:
    codes = at_once(8, lambda _: driver.create("ext4"))
    assert set(codes) <= {OK, ABORTED}
    assert codes[OK] >= 1
    volume = driver.create("ext4")
    calls: list[Callable[[], None]] = [
        lambda: driver.stage(volume, "ext4"),
        lambda: driver.publish(volume, "ext4"),
        lambda: driver.unpublish(volume),
        lambda: driver.unstage(volume),
        lambda: driver.delete(volume),
    ]
    for call in calls:
        codes = at_once(8, lambda _: call())  # noqa: B023 - the calls end before the next round
        assert set(codes) <= {OK, ABORTED}
        assert codes[OK] >= 1
        call()
        assert len(driver.loops()) <= 1
    driver.assert_nothing_left()


def test_different_volumes_do_not_wait_for_each_other(driver: Driver) -> None:
    count = 12
    folders = [driver.staging.with_name(f"staging-{n}") for n in range(count)]
    for folder in folders:
        folder.mkdir()
    volumes = [""] * count

    def make(number: int) -> None:
        volumes[number] = driver.create("ext4", f"volume-{number}")
        driver.stage(volumes[number], "ext4", folders[number])
        driver.publish(volumes[number], "ext4", driver.pods / str(number), staging=folders[number])
        (driver.pods / str(number) / "name").write_text(str(number))

    def remove(number: int) -> None:
        driver.unpublish(volumes[number], driver.pods / str(number))
        driver.unstage(volumes[number], folders[number])
        driver.delete(volumes[number])

    assert at_once(count, make) == {OK: count}
    assert len(set(driver.loops())) == count
    assert [(driver.pods / str(n) / "name").read_text() for n in range(count)] == [str(n) for n in range(count)]
    assert at_once(count, remove) == {OK: count}
    driver.assert_nothing_left()


def test_promises_made_at_once_are_kept(driver: Driver) -> None:
    available = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
    half = available // 2 // 4096 * 4096
    codes = at_once(6, lambda number: driver.create("block", f"half-{number}", half))
    assert codes == {OK: 2, grpc.StatusCode.RESOURCE_EXHAUSTED: 4}
    for entry in driver.controller.ListVolumes(pb.ListVolumesRequest()).entries:
        driver.delete(entry.volume.volume_id)
    driver.assert_nothing_left()


def test_create_and_delete_of_one_name_never_leave_half_a_volume(driver: Driver) -> None:
    def both(number: int) -> None:
        for _ in range(10):
            try:
                volume = driver.create("block", "contested")
                if number % 2:
                    driver.delete(volume)
            except grpc.RpcError as error:
                assert error.code() is ABORTED, error

    assert at_once(6, both) == {OK: 6}
    assert len(driver.images()) == len(driver.controller.ListVolumes(pb.ListVolumesRequest()).entries) <= 1
    driver.delete(driver.create("block", "contested"))
    driver.assert_nothing_left()
