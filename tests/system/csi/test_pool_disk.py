"""`nodeplug csi pools init`: a blank disk becomes a pool, and nothing that may hold data is ever written to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.csi.kit import Driver

MakeDriver = Callable[..., Driver]
SIZE = 600 << 20


@pytest.fixture
def disk(short_tmp: Path) -> Iterator[Path]:
    """A blank disk of our own: a loop device."""
    image = short_tmp / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    found = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = Path(found.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def init(driver: Driver, device: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command, with the daemon's options."""
    argv = [sys.executable, "-m", "plugins", "csi", "pools", "init", *driver.command()[5:], *options, str(device)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def digest(device: Path) -> str:
    """Of everything that a loop device holds; holes of its image are left out, to be quick."""
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    image = Path(f"/sys/block/{device.name}/loop/backing_file").read_text(encoding="utf-8").strip()
    found, at = hashlib.sha256(), 0
    with open(image, "rb") as file:
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return found.hexdigest()
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            found.update(f"{at}-{end}".encode() + os.pread(file.fileno(), end - at, at))
            at = end


def refused(driver: Driver, device: Path, text: str) -> None:
    """It must be refused for that reason, and the device be as it was."""
    before = digest(device)
    done = init(driver, device)
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr
    assert digest(device) == before


def test_a_blank_disk_becomes_a_pool_that_is_mounted_by_uuid(make_driver: MakeDriver, disk: Path) -> None:
    driver = make_driver("embedded=false")
    done = init(driver, disk, "--output", "json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["fstab"] == f"UUID={said['uuid']} {driver.pool} xfs noatime,nodev,nosuid,noexec 0 0"
    assert f"What=/dev/disk/by-uuid/{said['uuid']}" in said["unit"]
    assert f"Where={driver.pool}" in said["unit"]
    driver.pool.mkdir(parents=True)
    assert (
        said["uuid"]
        == subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "UUID", disk], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    options = said["fstab"].split()[3]
    subprocess.run(["mount", "-t", "xfs", "-o", options, disk, driver.pool], check=True)
    try:
        driver.start()
        driver.remove(driver.ready("ext4"))
        driver.stop()
        assert not Path(f"{driver.pool}.img").exists()
        assert "there is a pool already" in init(driver, disk).stderr
    finally:
        subprocess.run(["umount", driver.pool], check=True)
    refused(driver, disk, "is not blank")


@pytest.mark.parametrize("at", [0, 4096, (1 << 20) - 1, SIZE - 1, SIZE - (1 << 20), (64 << 20) + (64 << 10)])
def test_one_byte_where_a_format_may_keep_its_mark_is_enough(make_driver: MakeDriver, disk: Path, at: int) -> None:
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(b"\1")
        file.flush()
        os.fsync(file.fileno())
    refused(make_driver(), disk, f"data at byte {at}")


@pytest.mark.parametrize("argv", [("mkfs.ext4", "-q"), ("mkfs.xfs", "-q"), ("mkswap",)], ids=["ext4", "xfs", "swap"])
def test_a_disk_with_a_filesystem_is_refused(make_driver: MakeDriver, disk: Path, argv: tuple[str, ...]) -> None:
    subprocess.run([*argv, disk], check=True, capture_output=True)
    refused(make_driver(), disk, "is not blank")


def test_a_disk_in_use_is_refused(make_driver: MakeDriver, disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY | os.O_EXCL)
    try:
        refused(make_driver(), disk, "is in use")
    finally:
        os.close(fd)


def test_what_blkid_says_counts_too(make_driver: MakeDriver, disk: Path, short_tmp: Path) -> None:
    programs = short_tmp / "programs"
    programs.mkdir()
    (programs / "blkid").write_text("#!/bin/sh\necho '/dev/x: TYPE=\"something\"'\n")
    (programs / "blkid").chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}:{path}"
    try:
        refused(make_driver(), disk, 'blkid says TYPE="something"')
    finally:
        os.environ["PATH"] = path


def test_what_is_no_disk_is_refused(make_driver: MakeDriver, short_tmp: Path) -> None:
    driver = make_driver()
    file = short_tmp / "file"
    file.touch()
    for path, text in (
        (file, "is no block device"),
        (short_tmp / "none", "cannot be opened"),
        (short_tmp, "cannot be"),
    ):
        done = init(driver, path)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr


def test_a_disk_that_is_too_small_is_refused(make_driver: MakeDriver, short_tmp: Path) -> None:
    image = short_tmp / "small.img"
    with image.open("wb") as file:
        file.truncate(100 << 20)
    found = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    try:
        refused(make_driver(), Path(found.stdout.strip()), "at least 512MiB")
    finally:
        subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)
