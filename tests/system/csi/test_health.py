"""What the driver says of volumes and of its pool, when both are well and when they are not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import Driver, refused
from tools import leaks

MIB = 1 << 20
Entry = tuple[int, str]


def entries(health: pb.VolumeHealth, volume: str) -> list[Entry]:
    """(status, reason); each has a sentence for people."""
    assert health.volume_id == volume
    assert all(e.message for e in health.health_statuses)
    return [(e.status, e.reason) for e in health.health_statuses]


def of_node(driver: Driver, volume: str, target: Path | None = None, staging: Path | None = None) -> list[Entry]:
    request = pb.NodeGetVolumeHealthRequest(
        volume_id=volume, volume_publish_path=str(target or ""), staging_target_path=str(staging or "")
    )
    return entries(driver.node.NodeGetVolumeHealth(request).volume_health, volume)


def of_controller(driver: Driver, volume: str) -> list[Entry]:
    response = driver.controller.ControllerGetVolumeHealth(pb.ControllerGetVolumeHealthRequest(volume_id=volume))
    return entries(response.volume_health, volume)


def of_storage(driver: Driver) -> list[Entry]:
    backends = driver.node.NodeGetStorageHealth(pb.NodeGetStorageHealthRequest()).backend_health
    return [(b.status, b.reason) for b in backends]


def image(driver: Driver) -> Path:
    [name] = driver.images()
    return driver.pool / "volumes" / name


def device(driver: Driver) -> str:
    """The loop device of the one volume."""
    return next(name for name, file in leaks.loops().items() if file == str(image(driver)))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "block"])
def test_nothing_bad_is_said_of_what_is_well(driver: Driver, kind: str) -> None:
    volume = driver.create(kind)
    assert (of_controller(driver, volume), of_node(driver, volume)) == ([], [])
    driver.stage(volume, kind)
    assert of_node(driver, volume, staging=driver.staging) == []
    driver.publish(volume, kind, read_only=True)
    assert of_node(driver, volume, driver.target, driver.staging) == []
    assert of_storage(driver) == []
    driver.remove(volume)


def test_what_is_not_there_is_not_found(driver: Driver) -> None:
    volume = driver.ready("ext4")
    for unknown in ("vol-00000000000000000000.test-node", "other"):
        for ask in (of_controller, of_node):
            with refused(grpc.StatusCode.NOT_FOUND):
                ask(driver, unknown)
    with refused(grpc.StatusCode.NOT_FOUND, "published"):
        of_node(driver, volume, driver.pods / "other")
    with refused(grpc.StatusCode.NOT_FOUND, "staged"):
        of_node(driver, volume, staging=driver.pods / "other")
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        of_controller(driver, "")
    driver.remove(volume)


def test_a_missing_image_is_lost_data(driver: Driver) -> None:
    volume = driver.create("block")
    image(driver).unlink()
    assert of_controller(driver, volume) == of_node(driver, volume) == [(pb.DATA_LOSS, "ImageMissing")]
    driver.delete(volume)


def test_an_image_that_was_cut_is_lost_data(driver: Driver) -> None:
    volume = driver.create("block")
    with image(driver).open("r+b") as file:
        file.truncate(MIB)
    assert of_controller(driver, volume) == [(pb.DATA_LOSS, "ImageCut")]
    driver.delete(volume)


def test_a_device_or_mount_that_only_the_record_has(driver: Driver) -> None:
    volume = driver.ready("ext4")
    subprocess.run(["umount", driver.target], check=True)
    assert of_node(driver, volume, driver.target) == [(pb.INACCESSIBLE, "NotMounted")]
    subprocess.run(["umount", driver.staging], check=True)
    assert (pb.INACCESSIBLE, "NotMounted") in of_node(driver, volume)
    subprocess.run(["losetup", "--detach", f"/dev/{device(driver)}"], check=True)
    assert of_node(driver, volume) == [(pb.INACCESSIBLE, "DeviceLost")]
    assert of_controller(driver, volume) == []
    driver.publish(volume, "ext4")
    assert of_node(driver, volume, driver.target, driver.staging) == []
    driver.remove(volume)


def test_a_filesystem_that_became_read_only(driver: Driver) -> None:
    volume = driver.ready("ext4")
    Path(f"/sys/fs/ext4/{device(driver)}/trigger_fs_error").write_text("test")
    until = time.monotonic() + 10  # the kernel counts it in a worker of its own
    while (pb.DEGRADED, "FilesystemErrors") not in of_node(driver, volume):
        assert time.monotonic() < until
    subprocess.run(["mount", "-o", "remount,ro", driver.staging], check=True)
    assert (pb.INACCESSIBLE, "FilesystemReadOnly") in of_node(driver, volume, driver.target)
    assert of_controller(driver, volume) == []
    driver.remove(volume)


def test_a_filesystem_that_was_shut_down(driver: Driver) -> None:
    volume = driver.ready("xfs")
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", driver.staging], check=True)
    assert of_node(driver, volume) == [(pb.INACCESSIBLE, "FilesystemFailed")]
    driver.unpublish(volume)
    driver.unstage(volume)
    driver.stage(volume, "xfs")
    assert of_node(driver, volume) == []
    driver.remove(volume)
    driver.assert_nothing_left()


def test_a_pool_that_lost_its_mount(driver: Driver) -> None:
    volume = driver.create("block")
    subprocess.run(["umount", "--lazy", driver.pool], check=True)
    try:
        assert of_storage(driver) == [(pb.STORAGE_DEGRADED, "PoolMountLost")]
        assert of_controller(driver, volume) == [(pb.DEGRADED, "PoolMountLost")]
        driver.delete(volume)
    finally:
        assert driver.process
        driver.process.kill()
        for name in [name for name, file in leaks.loops().items() if file == f"{driver.pool}.img"]:
            subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)


def test_a_pool_that_failed(driver: Driver) -> None:
    volume = driver.create("block")
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", driver.pool], check=True)
    assert of_storage(driver) == [(pb.STORAGE_UNREACHABLE, "PoolFailed")]
    assert (pb.INACCESSIBLE, "PoolFailed") in of_controller(driver, volume)


def test_a_pool_that_is_nearly_full(make_driver: Callable[..., Driver]) -> None:
    driver = make_driver("reserve=1900MiB").start()
    assert of_storage(driver) == []
    filler = driver.pool / "filler"
    subprocess.run(["fallocate", "--length", "100MiB", filler], check=True)
    assert of_storage(driver) == [(pb.STORAGE_DEGRADED, "PoolNearlyFull")]


def test_the_health_of_all_volumes_comes_in_pages(driver: Driver) -> None:
    volumes = [driver.create("block", f"volume-{number}") for number in range(5)]
    (driver.pool / "volumes" / f"{volumes[3].partition('.')[0]}.img").unlink()
    seen: list[str] = []
    sick: list[str] = []
    token = ""
    while True:
        request = pb.ControllerListVolumeHealthRequest(max_entries=2, starting_token=token)
        response = driver.controller.ControllerListVolumeHealth(request)
        seen += [entry.volume_id for entry in response.entries]
        sick += [entry.volume_id for entry in response.entries if entry.health_statuses]
        token = response.next_token
        if not token:
            break
    assert (seen, sick) == (volumes, [volumes[3]])
    with refused(grpc.StatusCode.ABORTED):
        driver.controller.ControllerListVolumeHealth(pb.ControllerListVolumeHealthRequest(starting_token="x"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        driver.controller.ControllerListVolumeHealth(pb.ControllerListVolumeHealthRequest(max_entries=-1))
    for volume in volumes:
        driver.delete(volume)


def test_one_volume_by_id(driver: Driver) -> None:
    volume = driver.create("block")
    response = driver.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=volume))
    [entry] = driver.controller.ListVolumes(pb.ListVolumesRequest()).entries
    assert response.volume == entry.volume
    assert response.HasField("status")
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        driver.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest())
    driver.delete(volume)
    with refused(grpc.StatusCode.NOT_FOUND):
        driver.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=volume))
