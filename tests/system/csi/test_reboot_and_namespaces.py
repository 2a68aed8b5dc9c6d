"""What outlives the daemon: a reboot takes mounts and devices away, the end of a namespace takes mounts only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.system.csi.kit import Driver, refused
from tools import leaks

MakeDriver = Callable[..., Driver]
_UNSHARE = ("unshare", "--mount", "--propagation", "private")


def reboot(driver: Driver) -> None:
    """The machine loses all mounts and loop devices; files stay."""
    assert driver.process
    driver.process.kill()
    driver.clean()
    assert (driver.loops(), driver.mounts()) == ([], [])
    driver.start()


@pytest.fixture
def published(driver: Driver, request: pytest.FixtureRequest) -> tuple[Driver, str, str]:
    """A volume in use when the machine goes down."""
    kind = request.param
    volume = driver.ready(kind)
    driver.write(kind, b"kept")
    reboot(driver)
    return driver, volume, kind


both = pytest.mark.parametrize("published", ["block", "ext4"], indirect=True)


@both
def test_after_a_reboot_the_kubelet_stages_and_publishes_again(published: tuple[Driver, str, str]) -> None:
    driver, volume, kind = published
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert driver.read(kind) == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


@both
def test_after_a_reboot_a_publish_without_a_stage_shows_the_volume(published: tuple[Driver, str, str]) -> None:
    driver, volume, kind = published
    driver.publish(volume, kind)
    assert driver.read(kind) == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


@both
def test_after_a_reboot_everything_can_be_undone(published: tuple[Driver, str, str]) -> None:
    driver, volume, _ = published
    driver.remove(volume)
    driver.assert_nothing_left()


@both
def test_after_a_reboot_unpublish_may_never_come(published: tuple[Driver, str, str]) -> None:
    driver, volume, _ = published
    driver.unstage(volume)
    driver.delete(volume)
    assert (driver.images(), driver.loops(), driver.mounts()) == ([], [], [])


@both
def test_after_a_reboot_nothing_but_delete_may_come(published: tuple[Driver, str, str]) -> None:
    driver, volume, _ = published
    driver.delete(volume)
    assert (driver.images(), driver.loops(), driver.mounts()) == ([], [], [])


def test_a_mount_that_was_taken_away_by_hand_comes_back(driver: Driver) -> None:
    volume = driver.ready("ext4")
    driver.write("ext4", b"kept")
    for path in (driver.target, driver.staging):
        subprocess.run(["umount", path], check=True)
    driver.publish(volume, "ext4")
    assert driver.read("ext4") == b"kept"
    driver.remove(volume)
    driver.assert_nothing_left()


def test_a_foreign_mount_in_the_way_is_never_touched(driver: Driver) -> None:
    volume = driver.create("ext4")
    driver.target.mkdir()
    for path in (driver.staging, driver.target):
        subprocess.run(["mount", "-t", "tmpfs", "foreign", path], check=True)
        (path / "file").touch()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "another filesystem"):
        driver.stage(volume, "ext4")
    driver.unpublish(volume)
    driver.unstage(volume)
    assert (driver.staging / "file").exists()
    assert (driver.target / "file").exists()
    for path in (driver.staging, driver.target):
        subprocess.run(["umount", path], check=True)
    driver.delete(volume)


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
@pytest.mark.parametrize("kind", ["block", "ext4", "xfs"])
def test_a_daemon_killed_in_its_own_namespace_loses_nothing(make_driver: MakeDriver, kind: str) -> None:
    driver = make_driver().start(prefix=_UNSHARE)
    assert driver.process
    assert any("propagation" in line["message"] for line in driver.process.lines())
    volume = driver.ready(kind)
    _write(driver, kind, b"kept")
    assert driver.mounts() == []  # all of it is in the other namespace
    pool_devices = _devices_of(driver.root / "state" / "pool.img")
    volume_devices = driver.loops()
    assert (len(pool_devices), len(volume_devices)) == (1, 1)
    driver.process.kill()

    driver.start(prefix=_UNSHARE)
    assert _devices_of(driver.root / "state" / "pool.img") == pool_devices
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert _read(driver, kind) == b"kept"
    assert driver.loops() == volume_devices
    _write(driver, kind, b"changed")
    driver.unpublish(volume)
    driver.unstage(volume)
    driver.process.kill()

    driver.start()  # on the host's side now, and nothing holds the volume any more
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    assert driver.read(kind) == b"changed"
    driver.remove(volume)
    driver.assert_nothing_left()
    driver.stop()
    assert _devices_of(driver.root / "state" / "pool.img") == []


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
def test_a_volume_mounted_in_a_living_namespace_is_not_detached(make_driver: MakeDriver) -> None:
    driver = make_driver().start()
    volume = driver.ready("ext4")
    with subprocess.Popen([*_UNSHARE, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"up\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"up\n"
        driver.unpublish(volume)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "namespace"):
            driver.unstage(volume)
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            driver.delete(volume)
        holder.stdin.close()
    driver.unstage(volume)
    driver.delete(volume)
    driver.assert_nothing_left()


def _devices_of(image: Path) -> list[str]:
    return sorted(name for name, file in leaks.loops().items() if file.removesuffix(" (deleted)") == str(image))


def _inside(driver: Driver, *argv: str, data: bytes = b"") -> bytes:
    """A command in the daemon's mount namespace."""
    assert driver.process
    enter = ["nsenter", f"--mount=/proc/{driver.process.pid}/ns/mnt", *argv]
    return subprocess.run(enter, input=data, check=True, capture_output=True).stdout


def _path(driver: Driver, kind: str) -> str:
    return str(driver.target if kind == "block" else driver.target / "data")


def _write(driver: Driver, kind: str, data: bytes) -> None:
    output = f"of={_path(driver, kind)}"
    _inside(driver, "dd", output, "bs=4096", "conv=fsync,notrunc", "status=none", data=data.ljust(4096, b"\0"))


def _read(driver: Driver, kind: str) -> bytes:
    return _inside(driver, "dd", f"if={_path(driver, kind)}", "bs=4096", "count=1", "status=none").rstrip(b"\0")
