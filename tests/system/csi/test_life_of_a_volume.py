"""A volume from its making to its end, on real loop devices and mounts."""

from __future__ import annotations

import os
import stat
import subprocess

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import KINDS, SIZES, Driver, capability, refused


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_made_used_and_removed_without_a_trace(driver: Driver, kind: str) -> None:
    volume = driver.ready(kind)
    driver.write(kind, b"kept")
    driver.unpublish(volume)
    driver.unstage(volume)
    assert driver.loops() == []
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert driver.read(kind) == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_may_be_repeated(driver: Driver, kind: str) -> None:
    assert driver.create(kind) == (volume := driver.create(kind))
    for _ in range(3):
        driver.stage(volume, kind)
    for _ in range(3):
        driver.publish(volume, kind)
    assert len(driver.loops()) == 1
    for _ in range(3):
        driver.unpublish(volume)
    for _ in range(3):
        driver.unstage(volume)
    for _ in range(3):
        driver.delete(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_exactly_the_size_that_it_was_promised(driver: Driver, kind: str) -> None:
    volume = driver.ready(kind)
    entry = driver.controller.ListVolumes(pb.ListVolumesRequest()).entries[0]
    assert entry.volume.capacity_bytes == SIZES[kind]
    [image] = driver.loops()
    assert (driver.pool / "volumes" / image).stat().st_size == SIZES[kind]
    if kind == "block":
        with driver.target.open("rb") as device:
            assert device.seek(0, os.SEEK_END) == SIZES[kind]
    driver.remove(volume)


def test_a_published_block_volume_is_a_device(driver: Driver) -> None:
    volume = driver.ready("block")
    status = driver.target.stat()
    assert stat.S_ISBLK(status.st_mode)
    queue = f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/queue"
    with open(f"{queue}/logical_block_size") as size:
        assert size.read().strip() == "4096"
    driver.remove(volume)


def test_the_loop_device_goes_around_the_page_cache(driver: Driver) -> None:
    volume = driver.ready("ext4")
    status = driver.target.stat()
    with open(f"/sys/dev/block/{os.major(status.st_dev)}:{os.minor(status.st_dev)}/loop/dio") as dio:
        assert dio.read().strip() == "1"
    driver.remove(volume)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_read_only_target_cannot_be_written(driver: Driver, kind: str) -> None:
    volume = driver.create(kind)
    driver.stage(volume, kind)
    reader = driver.pods / "reader"
    driver.publish(volume, kind, reader, read_only=True)
    driver.publish(volume, kind)
    driver.write(kind, b"seen by both")
    assert (reader / "data").read_bytes().startswith(b"seen by both")
    with pytest.raises(OSError, match="Read-only"):
        (reader / "new").touch()
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        driver.publish(volume, kind, reader)
    driver.unpublish(volume, reader)
    driver.remove(volume)
    driver.assert_nothing_left()


def test_a_read_only_device_cannot_be_written_by_anybody(driver: Driver) -> None:
    volume = driver.create("block")
    driver.stage(volume, "block")
    reader = driver.pods / "reader"
    driver.publish(volume, "block", reader, read_only=True)
    driver.publish(volume, "block")
    driver.write("block", b"x" * 4096)
    with pytest.raises(OSError, match="not permitted|Read-only|denied"), reader.open("r+b") as device:
        device.write(b"y" * 4096)
        os.fsync(device.fileno())
    subprocess.run(["blockdev", "--setrw", str(reader)], check=False)  # root in a container may try
    with pytest.raises(OSError), reader.open("r+b") as device:
        device.write(b"y" * 4096)
        os.fsync(device.fileno())
    assert driver.read("block") == b"x" * 4096
    assert len(driver.loops()) == 2
    driver.unpublish(volume, reader)
    assert len(driver.loops()) == 1
    driver.remove(volume)
    driver.assert_nothing_left()


def test_each_ext4_volume_has_a_uuid_of_its_own_and_is_sound(driver: Driver) -> None:
    uuids = set()
    for name in ("one", "two", "three"):
        volume = driver.ready("ext4", name)
        driver.unpublish(volume)
        driver.unstage(volume)
        image = driver.pool / "volumes" / f"{volume.partition('.')[0]}.img"
        subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
        listing = subprocess.run(["tune2fs", "-l", image], check=True, capture_output=True, text=True).stdout
        uuids.add(next(line for line in listing.splitlines() if line.startswith("Filesystem UUID")))
        driver.delete(volume)
    assert len(uuids) == 3


def test_xfs_volumes_of_one_template_are_mounted_side_by_side(driver: Driver) -> None:
    volumes = {}
    for name in ("one", "two"):
        volumes[name] = driver.create("xfs", name)
        staging = driver.staging.with_name(name)
        staging.mkdir()
        driver.stage(volumes[name], "xfs", staging)
        (staging / "name").write_text(name)
    for name, volume in volumes.items():
        staging = driver.staging.with_name(name)
        assert (staging / "name").read_text() == name
        driver.unstage(volume, staging)
        image = driver.pool / "volumes" / f"{volume.partition('.')[0]}.img"
        subprocess.run(["xfs_repair", "-n", image], check=True, capture_output=True)
        driver.delete(volume)
    driver.assert_nothing_left()


def test_the_filesystem_may_be_named_as_late_as_at_the_first_stage(driver: Driver) -> None:
    volume = driver.create("", size=SIZES["xfs"])
    driver.stage(volume, "xfs")
    driver.publish(volume, "xfs")
    assert _filesystem(driver) == "xfs"
    driver.write("xfs", b"mine")
    driver.unpublish(volume)
    driver.unstage(volume)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "formatted with xfs"):
        driver.stage(volume, "ext4")
    driver.delete(volume)
    driver.assert_nothing_left()


def test_mount_options_reach_the_mounts(driver: Driver) -> None:
    volume = driver.create("ext4")
    driver.stage(volume, "ext4", flags=["noatime", "data=ordered,commit=7"])
    driver.publish(volume, "ext4", flags=["noatime", "noexec"])
    with open("/proc/self/mountinfo") as lines:
        found = {line.split()[4]: line for line in lines}
    assert "commit=7" in found[str(driver.staging)]
    assert {"noatime", "noexec"} <= set(found[str(driver.target)].split()[5].split(","))
    driver.remove(volume)


def test_stats_tell_bytes_and_inodes_of_a_filesystem_and_the_size_of_a_device(driver: Driver) -> None:
    for kind in ("ext4", "block"):
        volume = driver.ready(kind)
        request = pb.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=str(driver.target))
        usage = {u.unit: u for u in driver.node.NodeGetVolumeStats(request).usage}
        if kind == "block":
            assert {unit: u.total for unit, u in usage.items()} == {pb.VolumeUsage.BYTES: SIZES["block"]}
        else:
            assert 0 < usage[pb.VolumeUsage.BYTES].available <= usage[pb.VolumeUsage.BYTES].total <= SIZES["ext4"]
            assert usage[pb.VolumeUsage.INODES].used > 0
        request.volume_path = str(driver.pods)
        with refused(grpc.StatusCode.NOT_FOUND):
            driver.node.NodeGetVolumeStats(request)
        driver.remove(volume)


def test_a_volume_in_use_is_neither_deleted_nor_unstaged(driver: Driver) -> None:
    for kind in KINDS:
        volume = driver.ready(kind)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "staged"):
            driver.delete(volume)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "published"):
            driver.unstage(volume)
        driver.write(kind, b"still works")
        driver.remove(volume)
    driver.assert_nothing_left()


def test_a_device_that_somebody_holds_open_is_not_let_go_later_by_surprise(driver: Driver) -> None:
    volume = driver.create("block")
    driver.stage(volume, "block")
    [loop] = [n for n in os.listdir("/sys/block") if os.path.basename(_backing(n)) in driver.loops()]
    with open(f"/dev/{loop}", "rb"):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "open"):
            driver.unstage(volume)
        with open(f"/sys/block/{loop}/loop/autoclear") as autoclear:
            assert autoclear.read().strip() == "0"
    assert os.path.basename(_backing(loop)) in driver.loops()
    driver.unstage(volume)
    driver.delete(volume)
    driver.assert_nothing_left()


def test_what_others_attached_is_used_and_not_attached_a_second_time(driver: Driver) -> None:
    volume = driver.create("ext4")
    image = driver.pool / "volumes" / driver.images()[0]
    subprocess.run(["losetup", "--find", "--sector-size", "4096", image], check=True)
    driver.stage(volume, "ext4")
    assert driver.loops() == [image.name]
    driver.unstage(volume)
    driver.delete(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("content", [b"\0" * 4096, os.urandom(4096)])
def test_a_volume_that_lost_its_filesystem_is_never_formatted(driver: Driver, content: bytes) -> None:
    volume = driver.ready("ext4")
    driver.unpublish(volume)
    driver.unstage(volume)
    image = driver.pool / "volumes" / driver.images()[0]
    with image.open("r+b") as file:
        file.write(content)
    with refused(grpc.StatusCode.DATA_LOSS):
        driver.stage(volume, "ext4")
    assert image.read_bytes()[:4096] == content
    assert (driver.loops(), driver.mounts()) == ([], [])
    driver.delete(volume)


def test_single_writer_means_one_target(driver: Driver) -> None:
    once = pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
    for kind in ("ext4", "block"):
        volume = driver.create(kind)
        driver.stage(volume, kind)
        driver.publish(volume, kind, mode=once)
        driver.publish(volume, kind, mode=once)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "one target"):
            driver.publish(volume, kind, driver.pods / "second", mode=once)
        assert not (driver.pods / "second").exists()
        driver.remove(volume)
    driver.assert_nothing_left()


def test_validate_says_what_a_volume_can_be_used_for(driver: Driver) -> None:
    volume = driver.create("ext4")
    for kind, confirmed in (("ext4", True), ("", True), ("xfs", False), ("block", False)):
        request = pb.ValidateVolumeCapabilitiesRequest(volume_id=volume, volume_capabilities=[capability(kind)])
        response = driver.controller.ValidateVolumeCapabilities(request)
        assert (response.HasField("confirmed"), bool(response.message)) == (confirmed, not confirmed)
    driver.delete(volume)


def _filesystem(driver: Driver) -> str:
    with open("/proc/self/mountinfo") as lines:
        return next(line.split(" - ")[1].split()[0] for line in lines if line.split()[4] == str(driver.target))


def _backing(loop: str) -> str:
    try:
        with open(f"/sys/block/{loop}/loop/backing_file") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
