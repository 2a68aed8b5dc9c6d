"""Volumes that begin as copies: of snapshots and of other volumes, larger ones too."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from tests.system.csi.copies import (
    Place,
    check_clean,
    checksums,
    copy,
    fill,
    listed,
    snapshot,
    snapshot_images,
    unsnapshot,
)
from tests.system.csi.kit import KINDS, SIZES, Driver, dies, refused

FILESYSTEMS = ["ext4", "xfs"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_of_a_volume_in_use(driver: Driver, kind: str) -> None:
    volume = driver.ready(kind)
    driver.write(kind, b"before")
    clone = copy(driver, volume, kind)
    driver.write(kind, b"after")
    target = Place(driver, "clone").show(clone, kind)
    path = target if kind == "block" else target / "data"
    assert path.read_bytes()[:4096].rstrip(b"\0") == b"before"
    assert driver.read(kind) == b"after"


def test_the_answer_names_the_source(driver: Driver) -> None:
    volume = driver.create("ext4")
    taken = snapshot(driver, volume)
    clone, restored = copy(driver, volume, "ext4", "clone"), copy(driver, taken.snapshot_id, "ext4", "restored")
    sources = {
        entry.volume.volume_id: entry.volume.content_source
        for entry in driver.controller.ListVolumes(pb.ListVolumesRequest()).entries
    }
    assert sources[clone].volume.volume_id == volume
    assert sources[restored].snapshot.snapshot_id == taken.snapshot_id
    assert sources[volume].WhichOneof("type") is None


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "at rest"])
@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_a_larger_copy_has_a_larger_filesystem(driver: Driver, kind: str, in_use: bool) -> None:
    volume = driver.ready(kind)
    before = fill(driver.target)
    small = os.statvfs(driver.target).f_blocks
    if not in_use:
        driver.unpublish(volume)
        driver.unstage(volume)
    larger = copy(driver, snapshot(driver, volume).snapshot_id, kind, size=2 * SIZES[kind])
    place = Place(driver, "larger")
    for _ in range(2):
        target = place.show(larger, kind)
        assert os.statvfs(target).f_blocks > 1.8 * small
        assert checksums(target) == before
        place.hide(larger)
        check_clean(driver, "volumes", larger, kind)


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "at rest"])
def test_a_copy_of_ext4_has_a_uuid_of_its_own_and_whole_directories(driver: Driver, in_use: bool) -> None:
    volume = driver.ready("ext4")
    for number in range(1500):  # enough for a directory that is a tree of hashes
        (driver.target / f"a-name-that-takes-some-space-in-its-directory-{number}").touch()
    names = set(os.listdir(driver.target))
    if not in_use:
        driver.unpublish(volume)
        driver.unstage(volume)
    clone = copy(driver, volume, "ext4")
    place = Place(driver, "clone")
    target = place.show(clone, "ext4")
    assert set(os.listdir(target)) == names
    assert all((target / name).exists() for name in names)
    place.hide(clone)
    check_clean(driver, "volumes", clone, "ext4")
    assert uuid(driver, clone) != uuid(driver, volume)
    place.show(clone, "ext4")


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_source_and_copies_may_be_mounted_at_once(driver: Driver, kind: str) -> None:
    volume = driver.ready(kind)
    before = fill(driver.target)
    taken = snapshot(driver, volume)
    for name in ("one", "two"):
        made = copy(driver, taken.snapshot_id, kind, name)
        assert checksums(Place(driver, name).show(made, kind)) == before


def test_an_identical_retry_is_the_same_volume_even_without_its_source(driver: Driver) -> None:
    volume = driver.create("ext4")
    taken = snapshot(driver, volume)
    made = copy(driver, taken.snapshot_id, "ext4")
    assert copy(driver, taken.snapshot_id, "ext4") == made
    unsnapshot(driver, taken.snapshot_id)
    assert copy(driver, taken.snapshot_id, "ext4") == made
    with refused(grpc.StatusCode.ALREADY_EXISTS, taken.snapshot_id):
        driver.create("ext4", "copy")
    with refused(grpc.StatusCode.ALREADY_EXISTS, taken.snapshot_id):
        copy(driver, volume, "ext4")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "began empty"):
        copy(driver, taken.snapshot_id, "ext4", "volume")
    with refused(grpc.StatusCode.NOT_FOUND):
        copy(driver, taken.snapshot_id, "ext4", "another")


def test_sizes_of_copies(driver: Driver) -> None:
    volume = driver.create("ext4", size=SIZES["ext4"] + 4096)
    size = driver.controller.ListVolumes(pb.ListVolumesRequest()).entries[0].volume.capacity_bytes
    request = pb.CreateVolumeRequest(name="copy")
    request.volume_capabilities.add().mount.SetInParent()
    request.volume_capabilities[0].access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    request.volume_content_source.volume.volume_id = volume
    request.capacity_range.limit_bytes = size - 4096
    with refused(grpc.StatusCode.OUT_OF_RANGE, str(size)):
        driver.controller.CreateVolume(request)
    request.capacity_range.Clear()
    made = driver.controller.CreateVolume(request).volume
    driver.tokens.add(made.volume_id.partition(".")[0])
    assert made.capacity_bytes == size


def test_many_copies_of_one_source_at_the_same_time(driver: Driver) -> None:
    volume = driver.ready("ext4")
    before = fill(driver.target)
    taken = snapshot(driver, volume)
    sources = [taken.snapshot_id, volume]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        made = list(pool.map(lambda n: copy(driver, sources[n % 2], "ext4", f"copy{n}"), range(20)))
    assert len(set(made)) == 20
    for number in (0, 19):
        assert checksums(Place(driver, str(number)).show(made[number], "ext4")) == before


@pytest.mark.parametrize("of", ["snapshot", "volume"])
@pytest.mark.parametrize("point", points.CREATE)
def test_a_copy_that_is_killed_half_way(driver: Driver, point: str, of: str) -> None:
    volume = driver.ready("ext4")
    before = fill(driver.target)
    source = snapshot(driver, volume).snapshot_id if of == "snapshot" else volume
    driver.restart(fault=point)
    with dies(driver):
        copy(driver, source, "ext4", size=2 * SIZES["ext4"])
    driver.restart()
    assert len(driver.images()) == 1 + (point in ("csi.create.recorded", "csi.create.named"))
    made = copy(driver, source, "ext4", size=2 * SIZES["ext4"])
    place = Place(driver, "copy")
    assert checksums(place.show(made, "ext4")) == before
    place.hide(made)
    check_clean(driver, "volumes", made, "ext4")
    driver.delete(made)
    driver.remove(volume)
    if of == "snapshot":
        unsnapshot(driver, source)
    driver.assert_nothing_left()


def uuid(driver: Driver, volume: str) -> str:
    """The UUID of the filesystem in an image."""
    image = str(driver.pool / "volumes" / f"{volume.partition('.')[0]}.img")
    argv = ["blkid", "-p", "-o", "value", "-s", "UUID", image]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("of", ["snapshot", "volume"])
def test_a_pool_that_is_full_to_the_last_block(make_driver: Callable[..., Driver], of: str) -> None:
    """A copy and a snapshot of scattered blocks need space for the map of them: all of it or nothing is made."""
    driver = make_driver("embedded_size=512MiB", "overcommit=100").start()
    volume = driver.create("block", size=64 << 20)
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    with driver.target.open("r+b") as device:
        for number in range(0, 64 << 20, 16384):
            device.seek(number)
            device.write(os.urandom(4096))
    taken = snapshot(driver, volume).snapshot_id  # another one needs no promise, so it is the kernel that refuses it
    source = taken if of == "snapshot" else volume
    with occupied(driver.pool):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            copy(driver, source, "block", "copy", 64 << 20)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "ran out"):
            for number in range(200):
                snapshot(driver, volume, f"snapshot{number}")
    known = {entry.volume.volume_id.partition(".")[0] for entry in volumes(driver)}
    assert driver.images() == sorted(f"{token}.img" for token in known)
    assert len(snapshot_images(driver)) == len(listed(driver))
    driver.restart()
    made = copy(driver, source, "block", "with space again", 64 << 20)
    with Place(driver, "copy").show(made, "block").open("rb") as copied, driver.target.open("rb") as original:
        assert copied.read() == original.read()


def volumes(driver: Driver) -> Sequence[pb.ListVolumesResponse.Entry]:
    """All volumes."""
    return list(driver.controller.ListVolumes(pb.ListVolumesRequest()).entries)


@contextlib.contextmanager
def occupied(pool: Path) -> Iterator[None]:
    """Somebody takes all space of a pool."""
    path = pool / "somebody's"
    with path.open("wb") as file:
        for step in (1 << 24, 1 << 20, 1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)
    try:
        yield
    finally:
        path.unlink()
