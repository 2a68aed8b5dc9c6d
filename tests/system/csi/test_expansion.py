"""Volumes that grow, in use and at rest, and never shrink."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from plugins.csi.host import ext4
from tests.system.csi.kit import SIZES, Driver, dies, refused

MIB = 1 << 20
CAP_SYS_RESOURCE = 24


def can_grow_mounted_ext4() -> bool:
    with open("/proc/self/status") as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return bool(effective >> CAP_SYS_RESOURCE & 1)


def expand(driver: Driver, volume: str, size: int = 0, limit: int = 0, path: Path | None = None) -> int:
    """NodeExpandVolume; returns the size it tells."""
    request = pb.NodeExpandVolumeRequest(volume_id=volume, volume_path=str(path or driver.target))
    request.capacity_range.required_bytes = size
    request.capacity_range.limit_bytes = limit
    return driver.node.NodeExpandVolume(request, timeout=60).capacity_bytes


def controller_expand(driver: Driver, volume: str, size: int, limit: int = 0) -> pb.ControllerExpandVolumeResponse:
    request = pb.ControllerExpandVolumeRequest(volume_id=volume)
    request.capacity_range.required_bytes = size
    request.capacity_range.limit_bytes = limit
    return driver.controller.ControllerExpandVolume(request, timeout=60)


def recorded(driver: Driver) -> int:
    [entry] = driver.controller.ListVolumes(pb.ListVolumesRequest()).entries
    return entry.volume.capacity_bytes


def image(driver: Driver) -> Path:
    [name] = driver.images()
    return driver.pool / "volumes" / name


def filesystem_size(driver: Driver) -> int:
    status = os.statvfs(driver.target)
    return status.f_blocks * status.f_frsize


def device_size(path: Path) -> int:
    with path.open("rb") as device:
        return device.seek(0, os.SEEK_END)


def test_a_block_volume_grows_in_use_with_its_read_only_views(driver: Driver) -> None:
    volume = driver.create("block")
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    reader = driver.pods / "reader"
    driver.publish(volume, "block", reader, read_only=True)
    driver.write("block", b"kept")
    size = SIZES["block"] + 5 * MIB
    for _ in range(3):
        assert expand(driver, volume, size) == size
    assert (recorded(driver), image(driver).stat().st_size) == (size, size)
    assert (device_size(driver.target), device_size(reader)) == (size, size)
    assert driver.read("block") == b"kept"
    driver.unpublish(volume, reader)
    driver.remove(volume)
    driver.assert_nothing_left()


def test_an_xfs_volume_grows_in_use(driver: Driver) -> None:
    volume = driver.ready("xfs")
    driver.write("xfs", b"kept")
    before = filesystem_size(driver)
    size = SIZES["xfs"] + 212 * MIB
    for _ in range(3):
        assert expand(driver, volume, size) == size
    assert filesystem_size(driver) > before + 200 * MIB
    assert driver.read("xfs") == b"kept"
    driver.unpublish(volume)
    driver.unstage(volume)
    subprocess.run(["xfs_repair", "-n", image(driver)], check=True, capture_output=True)
    driver.delete(volume)
    driver.assert_nothing_left()


def test_an_ext4_volume_grows_before_its_next_mount(driver: Driver) -> None:
    if can_grow_mounted_ext4():
        pytest.skip("this process has CAP_SYS_RESOURCE: ext4 grows while mounted")
    volume = driver.ready("ext4")
    driver.write("ext4", b"kept")
    size = 200 * MIB
    for _ in range(2):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "staged the next time"):
            expand(driver, volume, size)
    assert recorded(driver) == size
    driver.unpublish(volume)
    driver.unstage(volume)
    driver.stage(volume, "ext4")
    driver.publish(volume, "ext4")
    assert filesystem_size(driver) > 180 * MIB
    assert expand(driver, volume, size) == size
    assert driver.read("ext4") == b"kept"
    driver.unpublish(volume)
    driver.unstage(volume)
    subprocess.run(["e2fsck", "-fn", image(driver)], check=True, capture_output=True)
    driver.delete(volume)
    driver.assert_nothing_left()


@pytest.mark.skipif(not can_grow_mounted_ext4(), reason="needs CAP_SYS_RESOURCE: ext4 grows while mounted only with it")
def test_an_ext4_volume_grows_in_use(driver: Driver) -> None:
    volume = driver.ready("ext4")
    driver.write("ext4", b"kept")
    size = 200 * MIB
    for _ in range(3):
        assert expand(driver, volume, size) == size
    assert filesystem_size(driver) > 180 * MIB
    assert driver.read("ext4") == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "block"])
def test_the_controller_grows_the_image_and_the_node_follows(make_driver: object, kind: str) -> None:
    driver = make_driver("expansion=controller").start()  # type: ignore[operator]
    volume = driver.create(kind)
    size = SIZES[kind] + 200 * MIB
    for _ in range(2):
        response = controller_expand(driver, volume, size)
        assert (response.capacity_bytes, response.node_expansion_required) == (size, kind != "block")
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert controller_expand(driver, volume, size).node_expansion_required
    assert expand(driver, volume) == size
    if kind == "block":
        assert device_size(driver.target) == size
    else:
        assert filesystem_size(driver) > SIZES[kind] + 100 * MIB
    driver.remove(volume)
    driver.assert_nothing_left()


def test_the_controller_does_not_grow_where_the_node_does(driver: Driver) -> None:
    volume = driver.create("block")
    with refused(grpc.StatusCode.UNIMPLEMENTED, "node service"):
        controller_expand(driver, volume, SIZES["block"] * 2)
    kinds = [
        c.rpc.type
        for c in driver.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest()).capabilities
    ]
    assert pb.ControllerServiceCapability.RPC.EXPAND_VOLUME not in kinds
    driver.delete(volume)


def test_sizes_are_exact_and_never_shrink(driver: Driver) -> None:
    volume = driver.ready("block")
    size = SIZES["block"]
    assert expand(driver, volume, size - MIB) == size
    assert expand(driver, volume) == size
    with refused(grpc.StatusCode.OUT_OF_RANGE, "never shrink"):
        expand(driver, volume, size - 2 * MIB, size - MIB)
    with refused(grpc.StatusCode.OUT_OF_RANGE):
        expand(driver, volume, size + 2 * MIB, size + MIB)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "4096"):
        expand(driver, volume, size + 1, size + 2)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "negative"):
        expand(driver, volume, -1)
    assert expand(driver, volume, size + 4096, size + 4096) == size + 4096
    assert expand(driver, volume, size + 4097) == size + MIB
    driver.remove(volume)
    driver.assert_nothing_left()


def test_no_more_is_promised_than_there_is(driver: Driver) -> None:
    volume = driver.ready("block")
    before = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        expand(driver, volume, SIZES["block"] + before + MIB)
    assert (recorded(driver), image(driver).stat().st_size) == (SIZES["block"], SIZES["block"])
    expand(driver, volume, SIZES["block"] + 10 * MIB)
    after = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
    assert abs(before - after - 10 * MIB) < MIB
    driver.remove(volume)


def test_only_at_a_path_of_the_volume(driver: Driver) -> None:
    volume = driver.ready("block")
    with refused(grpc.StatusCode.NOT_FOUND, "neither"):
        expand(driver, volume, SIZES["block"] * 2, path=driver.pods / "other")
    with refused(grpc.StatusCode.NOT_FOUND):
        expand(driver, "vol-00000000000000000000.test-node", SIZES["block"] * 2)
    assert expand(driver, volume, SIZES["block"] * 2, path=driver.staging) == SIZES["block"] * 2
    driver.remove(volume)


@pytest.mark.parametrize(
    ("kind", "point"), [*(("block", p) for p in points.EXPAND_BLOCK), *(("xfs", p) for p in points.EXPAND_MOUNT)]
)
@pytest.mark.parametrize("repeat", [True, False], ids=["repeated", "not-repeated"])
def test_killed_at_every_step_of_a_growth_in_use(make_driver: object, kind: str, point: str, repeat: bool) -> None:
    driver = make_driver().start(fault=point)  # type: ignore[operator]
    volume = driver.ready(kind)
    driver.write(kind, b"kept")
    size = SIZES[kind] + 100 * MIB
    with dies(driver):
        expand(driver, volume, size)
    driver.restart()
    grown = point != "csi.expand.announced"
    assert recorded(driver) == image(driver).stat().st_size == (size if grown else SIZES[kind])
    assert driver.read(kind) == b"kept"
    if repeat:
        assert expand(driver, volume, size) == size
    driver.unpublish(volume)
    driver.unstage(volume)
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    if grown or repeat:
        shown = device_size(driver.target) if kind == "block" else filesystem_size(driver)
        assert shown > SIZES[kind] + 20 * MIB  # xfs keeps some for its log
    assert driver.read(kind) == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("point", points.GROW)
def test_killed_at_every_step_of_a_growth_before_a_mount(make_driver: object, point: str) -> None:
    driver = make_driver("expansion=controller").start(fault=point)  # type: ignore[operator]
    volume = driver.ready("ext4")
    data = os.urandom(3 * MIB)
    (driver.target / "data").write_bytes(data)
    driver.unpublish(volume)
    driver.unstage(volume)
    controller_expand(driver, volume, 200 * MIB)
    with dies(driver):
        driver.stage(volume, "ext4")
    driver.restart()
    assert len(driver.images()) == 1
    driver.stage(volume, "ext4")
    driver.publish(volume, "ext4")
    assert filesystem_size(driver) > 180 * MIB
    assert hashlib.sha256((driver.target / "data").read_bytes()).digest() == hashlib.sha256(data).digest()
    driver.remove(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize("size_mib", [16, 17, 127, 128, 129, 130, 131, 132, 136, 256, 257, 640, 1025])
def test_a_fresh_filesystem_lacks_nothing(tmp_path: Path, size_mib: int) -> None:
    """What mkfs left out on purpose would else be tried for at every stage."""
    from plugins.csi.host.filesystems import EXT4

    file = tmp_path / "image"
    with file.open("wb") as raw:
        raw.truncate(size_mib * MIB)
    subprocess.run([*EXT4.mkfs, file], check=True)
    with file.open("rb") as raw:
        raw.seek(ext4.OFFSET)
        block = raw.read(ext4.SIZE)
    assert not ext4.lacks(block, size_mib * MIB)
    assert ext4.lacks(block, (size_mib + 64) * MIB)
