"""Snapshots of volumes that are in use, and volumes made of them."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import threading
import time

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.copies import (
    Place,
    assert_no_snapshot,
    check_clean,
    checksums,
    copy,
    fill,
    listed,
    snapshot,
    snapshot_images,
    unsnapshot,
)
from tests.system.csi.kit import SIZES, Driver, refused

FILESYSTEMS = ["ext4", "xfs"]
CONSISTENCY = ["crash", "filesystem"]


@pytest.mark.parametrize("consistency", CONSISTENCY)
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_it_holds_what_was_there_and_nothing_later(driver: Driver, kind: str, consistency: str) -> None:
    volume = driver.ready(kind)
    before = fill(driver.target)
    taken = snapshot(driver, volume, consistency=consistency)
    assert (taken.ready_to_use, taken.size_bytes, taken.source_volume_id) == (True, SIZES[kind], volume)
    fill(driver.target)
    driver.target.joinpath("later").write_bytes(b"later")
    place, restored = Place(driver, "copy"), copy(driver, taken.snapshot_id, kind)
    assert checksums(place.show(restored, kind)) == before
    place.hide(restored)
    check_clean(driver, "volumes", restored, kind)
    if (kind, consistency) == ("ext4", "filesystem"):  # xfs marks its log as to be replayed even when it is frozen
        check_clean(driver, "snapshots", taken.snapshot_id, kind)
    driver.delete(restored)
    driver.remove(volume)
    unsnapshot(driver, taken.snapshot_id)
    assert_no_snapshot(driver)
    driver.assert_nothing_left()


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_what_was_written_before_is_in_it_without_an_fsync(driver: Driver, kind: str) -> None:
    volume = driver.ready(kind)
    data = os.urandom(1 << 20)
    (driver.target / "data").write_bytes(data)
    taken = snapshot(driver, volume)
    place, restored = Place(driver, "copy"), copy(driver, taken.snapshot_id, kind)
    assert (place.show(restored, kind) / "data").read_bytes() == data


def test_what_was_written_to_a_raw_device_before_is_in_it(driver: Driver) -> None:
    volume = driver.ready("block")
    data = os.urandom(1 << 20)
    with driver.target.open("r+b") as device:
        device.write(data)
        device.flush()
        taken = snapshot(driver, volume)
    place, restored = Place(driver, "copy"), copy(driver, taken.snapshot_id, "block")
    with place.show(restored, "block").open("rb") as device:
        assert device.read(1 << 20) == data


@pytest.mark.parametrize("consistency", CONSISTENCY)
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_writers_go_on_and_every_snapshot_is_sound(driver: Driver, kind: str, consistency: str) -> None:
    """A writer appends numbered, fsynced records; each snapshot holds a prefix with all that came before the call."""
    volume = driver.ready(kind)
    written, begun, stop = [0], threading.Event(), threading.Event()

    def write() -> None:
        with (driver.target / "log").open("ab") as log:
            while not stop.is_set():
                log.write(f"{written[0]:07}\n".encode())
                log.flush()
                os.fsync(log.fileno())
                written[0] += 1
                begun.set()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        assert begun.wait(20)
        taken = []
        for number in range(4):
            at_least = written[0]
            taken.append((at_least, snapshot(driver, volume, f"s{number}", consistency).snapshot_id))
        stop.set()
        writer.result(20)
    for number, (at_least, snapshot_id) in enumerate(taken):
        place, restored = Place(driver, str(number)), copy(driver, snapshot_id, kind, f"c{number}")
        lines = (place.show(restored, kind) / "log").read_text().splitlines()
        place.hide(restored)
        assert lines == [f"{n:07}" for n in range(len(lines))]
        assert at_least <= len(lines) <= written[0]
        check_clean(driver, "volumes", restored, kind)


def test_a_snapshot_outlives_its_volume(driver: Driver) -> None:
    volume = driver.ready("ext4")
    before = fill(driver.target)
    taken = snapshot(driver, volume)
    driver.remove(volume)
    driver.restart()
    place, restored = Place(driver, "copy"), copy(driver, taken.snapshot_id, "ext4")
    assert checksums(place.show(restored, "ext4")) == before


def test_a_snapshot_does_not_change_by_what_is_made_of_it(driver: Driver) -> None:
    volume = driver.ready("ext4")
    before = fill(driver.target)
    taken = snapshot(driver, volume)
    for name in ("first", "second"):
        place, restored = Place(driver, name), copy(driver, taken.snapshot_id, "ext4", name)
        target = place.show(restored, "ext4")
        assert checksums(target) == before
        fill(target)
        place.hide(restored)


def test_the_same_name_is_the_same_snapshot(driver: Driver) -> None:
    volume, other = driver.create("ext4"), driver.create("ext4", "other")
    first, again = snapshot(driver, volume), snapshot(driver, volume)
    assert first == again
    with refused(grpc.StatusCode.ALREADY_EXISTS, volume):
        snapshot(driver, other)
    driver.delete(volume)
    assert snapshot(driver, volume) == first  # a retry of a call whose answer was lost
    assert len(snapshot_images(driver)) == 1


def test_its_time_lies_between_the_call_and_the_answer(driver: Driver) -> None:
    volume = driver.ready("ext4")
    before = time.time_ns()
    taken = snapshot(driver, volume, consistency="filesystem")
    assert before <= taken.creation_time.ToNanoseconds() <= time.time_ns()
    read = driver.controller.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=taken.snapshot_id)).snapshot
    assert read == taken
    driver.restart()
    assert driver.controller.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=taken.snapshot_id)).snapshot == taken


def test_snapshots_say_where_they_are_usable(driver: Driver) -> None:
    info = driver.node.NodeGetInfo(pb.NodeGetInfoRequest())
    request = pb.CreateSnapshotRequest(name="here", source_volume_id=driver.create("ext4"))
    request.accessibility_requirements.requisite.append(info.accessible_topology)
    assert list(driver.controller.CreateSnapshot(request).snapshot.accessible_topology) == [info.accessible_topology]
    request.name = "elsewhere"
    request.accessibility_requirements.requisite[0].segments.update(dict.fromkeys(["zone"], "another"))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "test-node"):
        driver.controller.CreateSnapshot(request)


def test_another_nodes_snapshots_and_volumes_are_not_ours(driver: Driver) -> None:
    foreign, volume = f"snap-{'0' * 20}.far-away", f"vol-{'0' * 20}.far-away"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        unsnapshot(driver, foreign)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        driver.controller.GetSnapshot(pb.GetSnapshotRequest(snapshot_id=foreign))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        listed(driver, snapshot_id=foreign)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        snapshot(driver, volume)
    for source in (foreign, volume):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "far-away"):
            copy(driver, source, "ext4")
    unsnapshot(driver, f"snap-{'0' * 20}.test-node")
    unsnapshot(driver, "of-another-driver")
    with refused(grpc.StatusCode.NOT_FOUND):
        snapshot(driver, f"vol-{'0' * 20}.test-node")


def test_pages_keep_their_place_while_snapshots_come_and_go(driver: Driver) -> None:
    volume, other = driver.create("block"), driver.create("block", "other")
    made = [snapshot(driver, volume, f"s{n}").snapshot_id for n in range(6)]
    snapshot(driver, other, "not asked for")
    request = pb.ListSnapshotsRequest(max_entries=2, source_volume_id=volume)
    seen: list[str] = []
    while True:
        page = driver.controller.ListSnapshots(request)
        seen += [entry.snapshot.snapshot_id for entry in page.entries]
        if not page.next_token:
            break
        if len(seen) == 2:
            unsnapshot(driver, seen[0])
            unsnapshot(driver, made[3])
            made.append(snapshot(driver, volume, "made meanwhile").snapshot_id)
        request.starting_token = page.next_token
    assert seen == [*made[:3], *made[4:]]
    with refused(grpc.StatusCode.ABORTED):
        driver.controller.ListSnapshots(pb.ListSnapshotsRequest(starting_token="not ours"))
    assert listed(driver, snapshot_id=made[1], source_volume_id=other) == []


@pytest.mark.parametrize("parameters", [{"consistency": "none"}, {"compression": "yes"}])
def test_parameters_that_are_not_known_are_refused(driver: Driver, parameters: dict[str, str]) -> None:
    request = pb.CreateSnapshotRequest(name="s", source_volume_id=driver.create("ext4"), parameters=parameters)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, next(iter(parameters))):
        driver.controller.CreateSnapshot(request)
    request.parameters.clear()
    request.parameters["csi.storage.k8s.io/volumesnapshot/name"] = "from the sidecar"
    driver.controller.CreateSnapshot(request)


def test_two_callers_get_one_snapshot(driver: Driver) -> None:
    volume = driver.ready("ext4")
    fill(driver.target)

    def call(_: int) -> str:
        for _attempt in range(400):
            try:
                return snapshot(driver, volume).snapshot_id
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.ABORTED, error
        raise AssertionError("aborted for ever")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(call, range(8)))) == 1
    assert len(snapshot_images(driver)) == 1


def test_a_frozen_filesystem_of_somebody_else_stays_frozen(driver: Driver) -> None:
    volume = driver.ready("ext4")
    subprocess.run(["fsfreeze", "--freeze", driver.target], check=True)
    try:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "frozen"):
            snapshot(driver, volume, consistency="filesystem")
        done = subprocess.run(["fsfreeze", "--freeze", driver.target], capture_output=True, check=False)
        assert done.returncode != 0  # it is still frozen
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", driver.target], check=True)
    assert snapshot_images(driver) == []


def test_capabilities_of_a_raw_copy_and_of_a_filesystem(driver: Driver) -> None:
    """A backup reads a filesystem's snapshot as a device; it comes back by way of a device as well."""
    volume = driver.ready("ext4")
    before = fill(driver.target)
    taken = snapshot(driver, volume, consistency="filesystem")
    raw = copy(driver, taken.snapshot_id, "block", "raw", SIZES["ext4"])
    place = Place(driver, "raw")
    with place.show(raw, "block").open("rb") as device:
        device.seek(1024 + 0x38)
        assert device.read(2) == b"\x53\xef"
    place.hide(raw)
    back = copy(driver, raw, "ext4", "back")
    assert checksums(Place(driver, "back").show(back, "ext4")) == before
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "ext4"):
        copy(driver, taken.snapshot_id, "xfs", "other kind")
    empty = driver.create("block", "empty")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "blank"):
        copy(driver, empty, "ext4", "of nothing")
