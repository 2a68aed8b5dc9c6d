"""The pool: which directories can be one, how it fills up, and what happens when it is not where it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import NODE, Driver, capability, refused
from tools import leaks

MakeDriver = Callable[..., Driver]
KEY = "topology.local.csi.nodeplug.internal/node"


def refused_start(driver: Driver) -> str:
    """What a daemon says that does not start; exit code 2."""
    process = driver.launch()
    assert process.popen.wait(20) == 2
    return process.text()


@pytest.fixture
def filesystem(short_tmp: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a fresh filesystem of a kind; gives the mount point."""
    mounted: list[Path] = []

    def make(kind: str) -> Path:
        program = f"mkfs.{kind}"
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
        image, path = short_tmp / f"{kind}.img", short_tmp / kind
        with image.open("wb") as file:
            file.truncate(2 << 30)
        subprocess.run([program, "-q", image], check=True, capture_output=True)
        path.mkdir()
        subprocess.run(["mount", "-o", "loop", image, path], check=True)
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_directory_that_shares_blocks_is_used_as_it_is(
    make_driver: MakeDriver, filesystem: Callable[[str], Path], kind: str
) -> None:
    pool = filesystem(kind) / "pool"
    driver = make_driver(f"pool={pool}").start()
    driver.pool = pool
    for fs in ("ext4", "block"):
        volume = driver.ready(fs)
        driver.write(fs, b"data")
        assert driver.read(fs) == b"data"
        driver.remove(volume)
    driver.assert_nothing_left()
    driver.stop()
    assert not Path(f"{pool}.img").exists()


def test_without_an_embedded_pool_it_says_which_directory_and_why(make_driver: MakeDriver, short_tmp: Path) -> None:
    driver = make_driver("embedded=false", f"pool={short_tmp}/pool")
    kind = subprocess.run(["stat", "-f", "-c", "%T", short_tmp], capture_output=True, text=True, check=True).stdout
    if kind.strip() in ("xfs", "btrfs"):
        pytest.skip("the temporary folder can share blocks")
    said = refused_start(driver)
    assert f"{short_tmp}/pool lies on " in said
    assert "cannot share blocks" in said
    assert "embedded = false" in said


def test_an_embedded_pool_that_is_too_small_is_not_made(make_driver: MakeDriver) -> None:
    driver = make_driver("embedded_size=100MiB")
    assert "at least 512MiB" in refused_start(driver)
    assert not Path(f"{driver.pool}.img").exists()


def test_files_are_not_hidden_under_a_pool(make_driver: MakeDriver) -> None:
    driver = make_driver()
    driver.pool.mkdir(parents=True)
    (driver.pool / "somebody's").touch()
    assert "the directory is not empty" in refused_start(driver)
    assert not [file for file in leaks.loops().values() if str(driver.root) in file]


def test_one_pool_has_one_daemon(make_driver: MakeDriver) -> None:
    first = make_driver().start()
    second = make_driver(f"pool={first.pool}")
    assert "in use by another daemon" in refused_start(second)
    first.remove(first.ready("ext4"))
    first.assert_nothing_left()


def test_state_and_pool_belong_together(make_driver: MakeDriver) -> None:
    driver = make_driver().start()
    volume = driver.create("block")
    driver.stop()
    state = driver.root / "state"
    (state / "state.db").rename(state / "elsewhere")
    assert "does not know" in refused_start(driver)
    (state / "elsewhere").rename(state / "state.db")

    Path(f"{driver.pool}.img").rename(state / "away.img")
    assert "is its filesystem mounted?" in refused_start(driver)
    Path(f"{driver.pool}.img").unlink()
    (state / "away.img").rename(f"{driver.pool}.img")

    driver.settings = (*driver.settings, "node_id=other")
    assert "belongs to node" in refused_start(driver)
    driver.settings = driver.settings[:-1]
    driver.start().delete(volume)
    driver.assert_nothing_left()


def test_a_pool_that_lost_its_mount_is_not_written_beneath(driver: Driver) -> None:
    subprocess.run(["umount", "--lazy", driver.pool], check=True)
    volume = driver.create("ext4")
    assert list(driver.pool.iterdir()) == []
    driver.restart()
    assert driver.images() == [f"{volume.partition('.')[0]}.img"]
    driver.delete(volume)
    driver.assert_nothing_left()


def test_what_is_promised_is_never_more_than_there_is(driver: Driver) -> None:
    available = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
    volume = driver.create("block", "most", available - (available % (1 << 20)))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, NODE):
        driver.create("block", "too much", 64 << 20)
    assert driver.create("block", "most", 1 << 20) == volume  # a retry is served though nothing is left
    assert driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity < 1 << 20
    driver.restart()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        driver.create("block", "too much", 64 << 20)
    driver.delete(volume)
    driver.delete(driver.create("block", "too much", 64 << 20))
    driver.assert_nothing_left()


def test_space_comes_back_at_once(driver: Driver) -> None:
    volume = driver.create("block", size=256 << 20)
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    before = os.statvfs(driver.pool).f_bfree
    with driver.target.open("r+b") as device:
        for _ in range(64):
            device.write(os.urandom(1 << 20))
        os.fsync(device.fileno())
    full = os.statvfs(driver.pool)
    assert (before - full.f_bfree) * full.f_frsize >= 64 << 20
    driver.remove(volume)
    after = os.statvfs(driver.pool)
    assert (after.f_bfree - full.f_bfree) * after.f_frsize >= 64 << 20


def test_a_full_pool_is_said_and_survived(make_driver: MakeDriver) -> None:
    driver = make_driver("overcommit=4", "reserve=64MiB").start()
    volume = driver.create("block", "big", 3 << 30)
    driver.stage(volume, "block")
    driver.publish(volume, "block")
    with driver.target.open("r+b", buffering=0) as device, pytest.raises(OSError):
        for _ in range(3 << 10):
            device.write(bytes(1 << 20))
            os.fsync(device.fileno())
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        driver.create("ext4", "another")
    driver.remove(volume)
    driver.remove(driver.ready("ext4"))
    driver.assert_nothing_left()


def test_templates_are_few(make_driver: MakeDriver) -> None:
    driver = make_driver("templates=2").start()
    for number in range(4):
        driver.delete(driver.create("ext4", size=(16 + number) << 20))
    assert len(list((driver.pool / "templates").iterdir())) == 2


def test_a_volume_belongs_to_this_node(driver: Driver) -> None:
    request = pb.CreateVolumeRequest(name="here", volume_capabilities=[capability("block")])
    request.capacity_range.required_bytes = 1 << 20
    volume = driver.controller.CreateVolume(request).volume
    assert [dict(t.segments) for t in volume.accessible_topology] == [{KEY: NODE}]
    assert volume.volume_id.endswith(f".{NODE}")
    driver.delete(volume.volume_id)

    request.accessibility_requirements.requisite.add().segments[KEY] = "other"
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, NODE):
        driver.controller.CreateVolume(request)
    request.accessibility_requirements.requisite.add().segments[KEY] = NODE
    driver.delete(driver.controller.CreateVolume(request).volume.volume_id)

    elsewhere = pb.GetCapacityRequest()
    elsewhere.accessible_topology.segments[KEY] = "other"
    assert driver.controller.GetCapacity(elsewhere).available_capacity == 0


def test_another_nodes_volume_is_never_called_deleted(driver: Driver) -> None:
    other = "vol-0123456789abcdef0123.other-node"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        driver.delete(other)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        driver.stage(other, "ext4")
    driver.delete("some other driver's volume")
    driver.delete(f"vol-0123456789abcdef0123.{NODE}")
    with refused(grpc.StatusCode.NOT_FOUND):
        driver.unpublish("some other driver's volume")


def test_two_pools_on_one_filesystem_leave_each_other_alone(
    make_driver: MakeDriver, filesystem: Callable[[str], Path]
) -> None:
    """A start lets go of what a killed call left attached: its own, not what another daemon holds there."""
    disk = filesystem("xfs")
    first, second = (make_driver(f"pool={disk / name}") for name in ("first", "second"))
    first.pool, second.pool = disk / "first", disk / "second"
    volume = first.start().create("block")
    first.stage(volume, "block")  # attached, and nobody has it open yet
    attached = first.loops()
    second.start()
    assert first.loops() == attached
    first.publish(volume, "block")
    first.remove(volume)
    second.stop()
    first.stop()
