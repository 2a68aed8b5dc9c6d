"""Thick volumes: their space is theirs from the beginning, whatever the pool promises to others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi.host import syscalls
from tests.system.csi.kit import Driver, capability, dies, refused

MIB = 1 << 20
SIZE = 256 * MIB
MakeDriver = Callable[..., Driver]
THICK = {"provisioning": "thick"}


@pytest.fixture
def disk(short_tmp: Path) -> Iterator[Path]:
    """A place for a pool: an XFS filesystem of its own with 1.5 GiB."""
    image, path = short_tmp / "backing", short_tmp / "disk"
    with image.open("wb") as file:
        file.truncate(1536 * MIB)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    path.mkdir()
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def driver(make_driver: MakeDriver, disk: Path) -> Iterator[Driver]:
    """A daemon with its pool there."""
    with serving(make_driver, disk) as made:
        yield made


@contextlib.contextmanager
def serving(make_driver: MakeDriver, disk: Path, *settings: str) -> Iterator[Driver]:
    """A daemon with its pool there, and nothing of it left mounted at the end."""
    made = make_driver(f"pool={disk}", "embedded=false", "expansion=controller", *settings)
    made.pool = disk
    try:
        yield made.start()
    finally:
        made.clean()


def create(driver: Driver, kind: str, name: str = "thick", size: int = SIZE, snapshot: str = "") -> str:
    """A thick volume; returns its id."""
    request = pb.CreateVolumeRequest(name=name, volume_capabilities=[capability(kind)], parameters=THICK)
    request.capacity_range.required_bytes = size
    if snapshot:
        request.volume_content_source.snapshot.snapshot_id = snapshot
    volume = driver.controller.CreateVolume(request, timeout=30).volume.volume_id
    driver.tokens.add(volume.partition(".")[0])
    return volume


def available(driver: Driver, parameters: dict[str, str] | None = None) -> int:
    """GetCapacity."""
    request = pb.GetCapacityRequest(parameters=parameters or {})
    return driver.controller.GetCapacity(request).available_capacity


def image(driver: Driver, volume: str) -> Path:
    """The file of a volume."""
    return driver.pool / "volumes" / f"{volume.partition('.')[0]}.img"


def own(driver: Driver, volume: str) -> int:
    """Bytes of an image's extents that are shared with nobody, as filefrag shows them."""
    said = subprocess.run(["filefrag", "-v", image(driver, volume)], check=True, capture_output=True, text=True).stdout
    rows = [line.split(":") for line in said.splitlines() if line.strip()[:1].isdigit()]
    return sum(int(row[3]) * 4096 for row in rows if "shared" not in row[-1])


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_all_of_the_space_is_the_volumes_own(driver: Driver, kind: str) -> None:
    free = os.statvfs(driver.pool).f_bavail * 4096
    before = available(driver)
    volume = create(driver, kind)
    assert own(driver, volume) == SIZE
    assert os.statvfs(driver.pool).f_bavail * 4096 <= free - SIZE
    assert create(driver, kind) == volume
    assert available(driver) == before - SIZE
    driver.restart()
    assert available(driver) == before - SIZE
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    driver.write(kind, b"data")
    driver.remove(volume)
    assert available(driver) == before
    assert driver.images() == []


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_filesystem_does_not_discard_its_space(driver: Driver, kind: str) -> None:
    size = max(SIZE, 300 * MIB)
    volume = create(driver, kind, size=size)
    driver.stage(volume, kind, flags=("discard",))
    driver.publish(volume, kind, flags=("discard",))
    for data in (os.urandom(32 * MIB), b""):
        (driver.target / "data").write_bytes(data)
        fd = os.open(driver.target, os.O_RDONLY)
        syscalls.syncfs(fd)
        os.close(fd)
    assert own(driver, volume) == size
    driver.remove(volume)


def test_what_a_program_discards_is_filled_again_at_the_next_stage(driver: Driver) -> None:
    volume = create(driver, "block")
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    with driver.target.open("r+b") as device:
        fcntl.ioctl(device, 0x1277, struct.pack("=2Q", 0, 32 * MIB))  # BLKDISCARD
    assert own(driver, volume) == SIZE - 32 * MIB
    driver.unpublish(volume)
    driver.unstage(volume)
    driver.stage(volume, "block")
    assert own(driver, volume) == SIZE
    driver.unstage(volume)


def test_a_thick_byte_takes_the_place_of_all_thin_ones_that_might_be_promised(
    make_driver: MakeDriver, disk: Path
) -> None:
    with serving(make_driver, disk, "overcommit=4") as driver:
        before, thick = available(driver), available(driver, THICK)
        assert thick < 1536 * MIB < before
        create(driver, "block")
        assert available(driver) == before - 4 * SIZE
        driver.restart()
        assert available(driver) == before - 4 * SIZE
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            create(driver, "block", "too much", thick)
        driver.create("block", "thin", thick)


def test_what_would_share_its_blocks_is_refused(driver: Driver) -> None:
    volume = create(driver, "ext4")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "is thick"):
        driver.controller.CreateSnapshot(pb.CreateSnapshotRequest(source_volume_id=volume, name="cut"))
    assert not list((driver.pool / "snapshots").iterdir())
    request = pb.CreateVolumeRequest(name="copy", volume_capabilities=[capability("ext4")])
    request.volume_content_source.volume.volume_id = volume
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "is thick"):
        driver.controller.CreateVolume(request)
    driver.delete(volume)


def test_a_snapshot_of_a_thin_volume_becomes_a_thick_one(driver: Driver) -> None:
    thin = driver.ready("ext4")
    driver.write("ext4", b"kept")
    request = pb.CreateSnapshotRequest(source_volume_id=thin, name="cut")
    snapshot = driver.controller.CreateSnapshot(request).snapshot.snapshot_id
    driver.unpublish(thin)
    driver.unstage(thin)
    volume = create(driver, "ext4", "restored", 16 * MIB, snapshot)
    assert own(driver, volume) == 16 * MIB
    driver.stage(volume, "ext4")
    driver.publish(volume, "ext4")
    assert driver.read("ext4") == b"kept"
    driver.remove(volume)


def test_what_is_added_is_its_own_as_well(driver: Driver) -> None:
    volume = create(driver, "ext4")
    before = available(driver)
    request = pb.ControllerExpandVolumeRequest(volume_id=volume)
    request.capacity_range.required_bytes = SIZE + 64 * MIB
    driver.controller.ControllerExpandVolume(request)
    assert own(driver, volume) == SIZE + 64 * MIB
    assert available(driver) == before - 64 * MIB
    driver.stage(volume, "ext4")  # the filesystem grows on a copy that takes the image's place
    driver.publish(volume, "ext4")
    assert own(driver, volume) == SIZE + 64 * MIB
    driver.remove(volume)


def test_more_than_is_really_free_is_refused_and_leaves_nothing(driver: Driver) -> None:
    subprocess.run(["fallocate", "-l", str(1200 * MIB), driver.pool / "somebody's"], check=True)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        create(driver, "block", size=512 * MIB)
    assert driver.images() == []


def test_killed_while_the_space_is_taken_it_is_undone(driver: Driver) -> None:
    before = available(driver)
    driver.restart("csi.create.kept")
    with dies(driver):
        create(driver, "block")
    driver.start()
    assert (driver.images(), available(driver)) == ([], before)
    driver.delete(create(driver, "block"))


def test_a_pool_that_cannot_keep_space_says_so(make_driver: MakeDriver) -> None:
    driver = make_driver().start()
    assert available(driver, THICK) == 0 < available(driver)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot keep space"):
        create(driver, "block")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "thin or thick"):
        available(driver, {"provisioning": "fat"})
