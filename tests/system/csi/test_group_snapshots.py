"""Group snapshots: one moment of several volumes, all of them or none."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from tests.system.csi.copies import (
    Place,
    assert_no_snapshot,
    check_clean,
    checksums,
    copy,
    fill,
    group,
    groups,
    listed,
    snapshot_images,
    ungroup,
    unsnapshot,
)
from tests.system.csi.kit import Driver, dies, refused

ROOT = Path(__file__).resolve().parents[3]


class Member:
    """A volume in use."""

    def __init__(self, driver: Driver, name: str, kind: str) -> None:
        self.kind = kind
        self.volume = driver.create(kind, name)
        self.place = Place(driver, name)
        self.target = self.place.show(self.volume, kind)


def members(driver: Driver, *kinds: str) -> list[Member]:
    """Volumes in use, one of each kind."""
    return [Member(driver, f"member{number}", kind) for number, kind in enumerate(kinds)]


def ids(some: list[Member]) -> list[str]:
    """Their volume ids."""
    return [member.volume for member in some]


def test_all_members_have_one_moment_while_a_writer_goes_on(driver: Driver) -> None:
    """A writer writes each number to the first volume, then to the second: no cut may have it in the second alone."""
    some = members(driver, "ext4", "xfs")
    begun, stop, count = threading.Event(), threading.Event(), [0]

    def write() -> None:
        logs = [(member.target / "log").open("ab", buffering=0) for member in some]
        while not stop.is_set():
            for log in logs:
                log.write(f"{count[0]:07}\n".encode())
                os.fsync(log.fileno())
            count[0] += 1
            begun.set()
        for log in logs:
            log.close()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        assert begun.wait(20)
        taken = []
        for number in range(5):
            at_least = count[0]
            taken.append((at_least, group(driver, ids(some), f"g{number}")))
        stop.set()
        writer.result(20)
    for number, (at_least, made) in enumerate(taken):
        lengths = []
        for member, snapshot in zip(some, made.snapshots, strict=True):
            assert snapshot.source_volume_id == member.volume
            place = Place(driver, f"copy{number}{member.kind}")
            restored = copy(driver, snapshot.snapshot_id, member.kind, f"copy{number}{member.kind}")
            lines = (place.show(restored, member.kind) / "log").read_text().splitlines()
            place.hide(restored)
            check_clean(driver, "volumes", restored, member.kind)
            assert lines == [f"{n:07}" for n in range(len(lines))]
            lengths.append(len(lines))
        assert at_least <= lengths[1] <= lengths[0] <= lengths[1] + 1


def test_a_group_is_made_read_and_deleted_as_one(driver: Driver) -> None:
    some = members(driver, "ext4", "block")
    before = fill(some[0].target)
    made = group(driver, ids(some))
    assert made.ready_to_use
    assert {s.creation_time.ToNanoseconds() for s in made.snapshots} == {made.creation_time.ToNanoseconds()}
    assert {s.group_snapshot_id for s in made.snapshots} == {made.group_snapshot_id}
    assert group(driver, ids(some)) == made
    assert group(driver, ids(some)[::-1]) == made
    driver.restart()
    service, snapshot_ids = groups(driver), [s.snapshot_id for s in made.snapshots]
    request = pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=made.group_snapshot_id, snapshot_ids=snapshot_ids)
    assert service.GetVolumeGroupSnapshot(request).group_snapshot == made
    assert listed(driver) == snapshot_ids
    with refused(grpc.StatusCode.FAILED_PRECONDITION, made.group_snapshot_id):
        unsnapshot(driver, snapshot_ids[0])
    place, restored = Place(driver, "copy"), copy(driver, snapshot_ids[0], "ext4")
    assert checksums(place.show(restored, "ext4")) == before
    ungroup(driver, made.group_snapshot_id)
    ungroup(driver, made.group_snapshot_id)
    assert_no_snapshot(driver)
    with refused(grpc.StatusCode.NOT_FOUND):
        service.GetVolumeGroupSnapshot(request)


def test_all_or_none(driver: Driver) -> None:
    some = members(driver, "ext4", "ext4")
    with refused(grpc.StatusCode.NOT_FOUND):
        group(driver, [*ids(some), f"vol-{'0' * 20}.test-node"])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        group(driver, [*ids(some), f"vol-{'0' * 20}.far-away"])
    assert_no_snapshot(driver)
    os.unlink(driver.pool / "volumes" / f"{some[1].volume.partition('.')[0]}.img")
    with refused(grpc.StatusCode.DATA_LOSS):
        group(driver, ids(some))
    assert_no_snapshot(driver)


def test_raw_devices_have_no_common_moment_unless_it_is_one(driver: Driver) -> None:
    some = members(driver, "block", "block", "ext4")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "crash"):
        group(driver, ids(some))
    assert_no_snapshot(driver)
    group(driver, ids(some)[1:], "one raw")
    group(driver, ids(some), "each at its own", "crash")
    some[0].place.hide(some[0].volume)
    group(driver, ids(some), "one at rest")


def test_names_and_members_that_do_not_fit(driver: Driver) -> None:
    volumes = [driver.create("ext4", name) for name in ("one", "two", "three")]
    made = group(driver, volumes[:2])
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        group(driver, volumes)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "twice"):
        group(driver, [volumes[0], volumes[0]], "twice")
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        group(driver, [], "of nothing")
    request = pb.DeleteVolumeGroupSnapshotRequest(
        group_snapshot_id=made.group_snapshot_id, snapshot_ids=[made.snapshots[0].snapshot_id]
    )
    with refused(grpc.StatusCode.INVALID_ARGUMENT, made.group_snapshot_id):
        groups(driver).DeleteVolumeGroupSnapshot(request)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "far-away"):
        ungroup(driver, f"group-{'0' * 20}.far-away")
    for volume in volumes:
        driver.delete(volume)
    assert group(driver, volumes[:2]) == made


def test_two_callers_get_one_group(driver: Driver) -> None:
    volumes = [driver.create("block", name) for name in ("one", "two")]

    def call(_: int) -> str:
        for _attempt in range(400):
            try:
                return group(driver, volumes).group_snapshot_id
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.ABORTED, error
        raise AssertionError("aborted for ever")

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(call, range(6)))) == 1
    assert len(snapshot_images(driver)) == 2


@pytest.mark.parametrize("at", ["first", "second"])
@pytest.mark.parametrize("point", points.GROUP)
def test_killed_while_it_is_made(driver: Driver, point: str, at: str) -> None:
    """Every volume can be written at once, and there is the whole group or nothing of it."""
    some = members(driver, "ext4", "ext4")
    contents = [fill(member.target, files=3) for member in some]
    twice = at == "second" and point.rpartition(".")[2] in ("filled", "named", "durable")
    driver.restart(fault=f"{point}:{2 if twice else 1}")
    with dies(driver):
        group(driver, ids(some))
    driver.restart()
    for member in some:
        (member.target / "written").write_bytes(b"not frozen")
    assert len(listed(driver)) == len(snapshot_images(driver)) == (2 if point == "csi.group.recorded" else 0)
    made = group(driver, ids(some))
    for member, snapshot, content in zip(some, made.snapshots, contents, strict=True):
        place = Place(driver, f"copy-{member.volume}")
        restored = copy(driver, snapshot.snapshot_id, "ext4", f"copy-{member.volume}")
        assert checksums(place.show(restored, "ext4")).items() >= content.items()
    ungroup(driver, made.group_snapshot_id)
    assert_no_snapshot(driver)


@pytest.mark.parametrize("point", points.GROUP_DELETE)
def test_killed_while_it_is_deleted(driver: Driver, point: str) -> None:
    driver.restart(fault=point)
    made = group(driver, [driver.create("block", name) for name in ("one", "two")])
    with dies(driver):
        ungroup(driver, made.group_snapshot_id)
    driver.restart()
    assert_no_snapshot(driver)
    ungroup(driver, made.group_snapshot_id)


def test_snapshots_are_listed_for_people_beside_the_running_daemon(driver: Driver) -> None:
    volume = driver.create("ext4")
    made = group(driver, [volume], "of one")
    argv = [sys.executable, "-m", "plugins", "csi", "snapshots", "--state-dir", str(driver.root / "state")]
    table = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert table[0].split()[0] == "ID"
    assert made.snapshots[0].snapshot_id in table[1]
    assert "of one" in table[1]
    listing = subprocess.run([*argv, "--output", "json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [row] = json.loads(listing)["snapshots"]
    assert (row["source_volume_id"], row["name"], row["group_id"]) == (volume, None, made.group_snapshot_id)
    seconds, _, nanoseconds = row["created"].removesuffix("Z").partition(".")
    assert int(nanoseconds) == made.creation_time.nanos
    assert seconds == made.creation_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S")
