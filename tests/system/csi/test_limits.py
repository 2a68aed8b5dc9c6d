"""How fast a volume may be used: what reaches io.max, when, and what is refused."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import faultpoints as points
from tests.system.csi.kit import SIZES, Driver, capability, dies, refused

ROOT = Path("/sys/fs/cgroup")
UNLIMITED = "rbps=max wbps=max riops=max wiops=max"
Make = Callable[..., Driver]


def controllers() -> list[str]:
    try:
        return (ROOT / "cgroup.controllers").read_text().split()
    except OSError:
        return []


@pytest.fixture
def limited(make_driver: Make, short_tmp: Path) -> Driver:
    """A daemon whose cgroup hierarchy is a folder: io.max collects every line that is written to it."""
    root = short_tmp / "cgroup"
    (root / "kubepods.slice").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu io memory\n")
    (root / "kubepods.slice" / "io.max").touch()
    return make_driver(f"cgroup_root={root}")


def io_max(driver: Driver) -> list[tuple[str, str]]:
    """(device, limits) in the order in which they were written."""
    lines = (driver.root.parent / "cgroup" / "kubepods.slice" / "io.max").read_text().splitlines()
    return [(device, limits) for device, _, limits in (line.partition(" ") for line in lines)]


def device(path: Path) -> str:
    status = path.stat()
    number = status.st_rdev or status.st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def modify(driver: Driver, volume: str, **parameters: str) -> None:
    request = pb.ControllerModifyVolumeRequest(volume_id=volume, mutable_parameters=parameters)
    driver.controller.ControllerModifyVolume(request, timeout=30)


def create(
    driver: Driver, kind: str, parameters: dict[str, str] | None = None, mutable: dict[str, str] | None = None
) -> str:
    request = pb.CreateVolumeRequest(
        name="volume", volume_capabilities=[capability(kind)], parameters=parameters, mutable_parameters=mutable
    )
    request.capacity_range.required_bytes = SIZES[kind]
    volume = driver.controller.CreateVolume(request, timeout=30).volume.volume_id
    driver.tokens.add(volume.partition(".")[0])
    return volume


def announced(driver: Driver) -> bool:
    response = driver.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
    return pb.ControllerServiceCapability.RPC.MODIFY_VOLUME in [c.rpc.type for c in response.capabilities]


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_limits_follow_a_volume_through_its_life(limited: Driver, kind: str) -> None:
    driver = limited.start()
    assert announced(driver)
    volume = create(driver, kind, {"readIOPS": "500"}, {"writeBytesPerSecond": "10Mi"})
    assert io_max(driver) == []
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    number = device(driver.target)
    first = "rbps=max wbps=10485760 riops=500 wiops=max"
    assert io_max(driver) == [(number, first)] * 2
    modify(driver, volume, readIOPS="1k", readBytesPerSecond="2000")
    second = "rbps=2000 wbps=10485760 riops=1000 wiops=max"
    assert io_max(driver)[-1] == (number, second)
    modify(driver, volume, readIOPS="max")
    third = "rbps=2000 wbps=10485760 riops=max wiops=max"
    assert io_max(driver)[-1] == (number, third)
    before = len(io_max(driver))
    driver.restart()
    assert io_max(driver)[before:] == [(number, third)]
    driver.unpublish(volume)
    driver.unstage(volume)
    assert io_max(driver)[-1] == (number, UNLIMITED)
    modify(driver, volume, writeIOPS="7")
    assert io_max(driver)[-1] == (number, UNLIMITED)
    driver.stage(volume, kind)
    assert io_max(driver)[-1][1] == "rbps=2000 wbps=10485760 riops=max wiops=7"
    driver.unstage(volume)
    driver.delete(volume)
    driver.assert_nothing_left()


def test_a_device_does_not_keep_the_limits_of_the_volume_before(limited: Driver) -> None:
    driver = limited.start()
    volume = driver.ready("block")
    assert io_max(driver) == []  # without a limit nothing is written
    number = device(driver.target)
    driver.remove(volume)
    with (driver.root.parent / "cgroup" / "kubepods.slice" / "io.max").open("a") as file:
        file.write(f"{number} rbps=1 wbps=1 riops=1 wiops=1\n")
    volume = driver.ready("block")
    if device(driver.target) == number:
        assert io_max(driver)[-1] == (number, UNLIMITED)
    driver.remove(volume)


def test_all_or_nothing(limited: Driver) -> None:
    driver = limited.start()
    volume = create(driver, "block", mutable={"readIOPS": "5"})
    for wrong in (
        {"readIOPS": "6", "unknown": "1"},
        {"readIOPS": "6", "writeIOPS": "many"},
        {"readIOPS": "0"},
        {"readIOPS": "-1"},
        {"readIOPS": ""},
        {"readIOPS": str(1 << 40)},
        {"readBytesPerSecond": "9" * 30},
        {},
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            modify(driver, volume, **wrong)
    with refused(grpc.StatusCode.NOT_FOUND):
        modify(driver, "vol-00000000000000000000.test-node", readIOPS="5")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        modify(driver, "vol-00000000000000000000.other-node", readIOPS="5")
    for place in ({"parameters": {"readIOPS": "x"}}, {"mutable": {"x": "1"}}, {"parameters": {"x": "1"}}):
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            create(driver, "ext4", **place)
    driver.stage(volume, "block")
    assert io_max(driver)[-1][1] == "rbps=max wbps=max riops=5 wiops=max"
    driver.unstage(volume)
    driver.delete(volume)


def test_what_the_kernel_refuses_is_not_recorded(limited: Driver) -> None:
    driver = limited.start()
    volume = create(driver, "block", mutable={"readIOPS": "5"})
    driver.stage(volume, "block")
    file = driver.root.parent / "cgroup" / "kubepods.slice" / "io.max"
    kept = file.read_text()
    file.unlink()
    file.mkdir()
    with refused(grpc.StatusCode.INTERNAL):
        modify(driver, volume, readIOPS="6")
    file.rmdir()
    file.write_text(kept)
    driver.stage(volume, "block")
    assert io_max(driver)[-1][1] == "rbps=max wbps=max riops=5 wiops=max"
    driver.unstage(volume)
    driver.delete(volume)


@pytest.mark.parametrize("point", points.MODIFY)
def test_killed_at_every_step(limited: Driver, point: str) -> None:
    driver = limited.start(fault=point)
    volume = driver.ready("block")
    with dies(driver):
        modify(driver, volume, writeIOPS="9")
    driver.restart()
    assert io_max(driver)[-1] == (device(driver.target), "rbps=max wbps=max riops=max wiops=9")
    modify(driver, volume, writeIOPS="9")
    driver.remove(volume)
    driver.assert_nothing_left()


@pytest.mark.parametrize(("files", "reason"), [({}, "cgroup v1"), ({"cgroup.controllers": "cpu\n"}, "io controller")])
def test_where_nothing_can_be_limited_that_is_said(
    make_driver: Make, short_tmp: Path, files: dict[str, str], reason: str
) -> None:
    root = short_tmp / "none"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    driver = make_driver(f"cgroup_root={root}").start()
    assert not announced(driver)
    volume = driver.create("block")
    with refused(grpc.StatusCode.UNIMPLEMENTED, reason):
        modify(driver, volume, readIOPS="5")
    for place in ({"parameters": {"readIOPS": "5"}}, {"mutable": {"readIOPS": "5"}}):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reason):
            create(driver, "ext4", **place)
    driver.delete(volume)


@pytest.mark.skipif("io" not in controllers(), reason="needs cgroup v2 with the io controller at /sys/fs/cgroup")
def test_the_kernel_keeps_a_limit(make_driver: Make) -> None:
    group = ROOT / f"nodeplug-test-{os.getpid()}"
    group.mkdir()
    try:
        driver = make_driver(f"cgroup_parent={group.name}").start()
        volume = create(driver, "block", mutable={"writeBytesPerSecond": "4Mi"})
        driver.stage(volume, "block")
        driver.publish(volume, "block")
        started = time.monotonic()
        script = f"echo $$ > {group}/cgroup.procs; dd if=/dev/zero of={driver.target} bs=1M count=12 oflag=direct"
        subprocess.run(["sh", "-c", script], check=True, capture_output=True)
        assert time.monotonic() - started > 1.5
        driver.remove(volume)
    finally:
        group.rmdir()
