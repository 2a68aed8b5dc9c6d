"""`nodeplug csi doctor` and `pools`: everything that does not fit is found and explained, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.csi.kit import Driver


def tool(driver: Driver, name: str, code: int = 0) -> dict[str, Any]:
    """What a command says in JSON."""
    argv = [*driver.command(), "--output", "json"]
    argv[argv.index("serve")] = name
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def findings(driver: Driver) -> list[tuple[str, str]]:
    """Kinds and subjects; exit code 1."""
    said = tool(driver, "doctor", 1)
    assert not said["clean"]
    assert all(found["message"] and found["advice"] for found in said["findings"])
    return [(found["kind"], found["subject"]) for found in said["findings"]]


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_a_node_in_order_is_clean_in_use_and_at_rest(driver: Driver, kind: str) -> None:
    volume = driver.create(kind)
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    driver.publish(volume, kind, driver.pods / "reader", read_only=True)
    assert tool(driver, "doctor") == {"clean": True, "findings": [], "notes": [], "served": True}
    driver.stop()  # volumes in use stay, and so does the pool
    said = tool(driver, "doctor")
    assert (said["findings"], said["served"]) == ([], False)
    driver.start().unpublish(volume, driver.pods / "reader")
    driver.remove(volume)
    driver.stop()
    said = tool(driver, "doctor")
    assert said["clean"]
    assert "is not mounted" in said["notes"][0]


def test_files_that_do_not_fit_the_records_are_found_and_left_alone(driver: Driver) -> None:
    lost, _ = driver.create("block", "lost"), driver.create("ext4", "whole")
    images = driver.pool / "volumes"
    (images / f"{lost.partition('.')[0]}.img").rename(images / "vol-stray.img")
    (images / ".vol-half.tmp").touch()
    (driver.pool / "templates" / "ext4-1-old.img").touch()
    before = driver.images()
    assert findings(driver) == [
        ("image-without-record", str(images / "vol-stray.img")),
        ("record-without-image", lost),
        ("unfinished-image", str(images / ".vol-half.tmp")),
        ("unused-template", str(driver.pool / "templates" / "ext4-1-old.img")),
    ]
    assert driver.images() == before


def test_devices_and_mounts_that_nothing_records_are_found(driver: Driver) -> None:
    volume = driver.ready("ext4")
    stray = driver.pods / "stray"
    stray.mkdir()
    subprocess.run(["mount", "--bind", driver.target, stray], check=True)
    assert findings(driver) == [("stray-mount", str(stray))]
    image = driver.pool / "volumes" / f"{volume.partition('.')[0]}.img"
    second = _attach(image, f"nodeplug {image.stem}")
    assert [kind for kind, _ in findings(driver)] == ["attached-twice", "stray-mount"]
    subprocess.run(["losetup", "--detach", second], check=True)
    subprocess.run(["umount", stray], check=True)
    assert tool(driver, "doctor")["clean"]
    driver.stop()
    with sqlite3.connect(driver.root / "state" / "state.db") as db:
        db.execute("DELETE FROM stagings")
    db.close()
    kinds = [kind for kind, _ in findings(driver)]
    assert kinds == ["stray-device", "stray-mount"]


def test_what_a_reboot_leaves_behind_is_told_from_what_is_broken(driver: Driver) -> None:
    volume = driver.ready("ext4")
    subprocess.run(["umount", driver.target], check=True)
    assert findings(driver) == [("publication-not-mounted", volume)]
    subprocess.run(["umount", driver.staging], check=True)
    assert findings(driver) == [("publication-not-mounted", volume), ("staging-not-mounted", volume)]
    assert driver.process
    driver.process.kill()
    driver.clean()
    assert findings(driver) == [("stale-staging", volume)]
    driver.start()
    assert findings(driver) == [("stale-staging", volume)]
    driver.remove(volume)
    assert tool(driver, "doctor")["clean"]


def test_an_interrupted_operation_is_named_until_the_daemon_has_settled_it(driver: Driver) -> None:
    from tests.system.csi.kit import dies

    driver.restart("csi.delete.announced")
    volume = driver.create("block")
    with dies(driver):
        driver.delete(volume)
    [(kind, subject)] = findings(driver)
    assert kind == "interrupted"
    driver.start()
    assert tool(driver, "doctor")["clean"]
    assert subject


@pytest.mark.parametrize("point", ["csi.create.filled", "csi.create.recorded"])
def test_a_volume_that_was_never_finished_is_named(driver: Driver, point: str) -> None:
    from tests.system.csi.kit import dies

    driver.restart(point)
    with dies(driver):
        driver.create("block")
    assert [kind for kind, _ in findings(driver)] == ["unfinished-image"]
    driver.start()
    assert tool(driver, "doctor")["clean"]


def test_a_pool_that_is_not_there_is_named(driver: Driver) -> None:
    driver.create("block")
    driver.stop()
    image = Path(f"{driver.pool}.img")
    image.rename(driver.root / "away")
    assert findings(driver) == [("pool-missing", str(driver.pool))]
    (driver.root / "away").rename(image)


def test_a_pool_that_belongs_to_other_records_is_named(driver: Driver) -> None:
    driver.create("block")
    other = driver.root / "other"
    other.mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(driver.root / "state" / name, other)
    with sqlite3.connect(other / "state.db") as db:
        db.execute("UPDATE pool SET value = 'another' WHERE name = 'pool id'")
    db.close()
    driver.settings = (*driver.settings, f"state_dir={other}", f"pool={driver.pool}")
    assert findings(driver) == [("wrong-pool", str(driver.pool))]


def test_pools_shows_what_is_there_and_what_is_promised(driver: Driver) -> None:
    driver.create("ext4", size=32 << 20)
    driver.create("block", "raw", 64 << 20)
    [pool] = tool(driver, "pools")["pools"]
    assert (pool["name"], pool["path"], pool["image"]) == ("default", str(driver.pool), f"{driver.pool}.img")
    assert (pool["filesystem"], pool["promised_bytes"], pool["volumes"]) == ("xfs", 96 << 20, 2)
    assert 0 < pool["free_bytes"] < pool["total_bytes"] <= 2 << 30
    assert (pool["overcommit"], pool["reserve_bytes"]) == (1.0, 16 << 20)
    assert [t["name"].startswith("ext4-33554432-") for t in pool["templates"]] == [True]
    driver.stop()
    [pool] = tool(driver, "pools")["pools"]
    assert (pool["total_bytes"], pool["promised_bytes"]) == (None, 96 << 20)


@pytest.mark.parametrize("name", ["pools", "doctor"])
def test_tables_are_for_people(driver: Driver, name: str) -> None:
    argv = [sys.executable, "-m", "plugins", "csi", name, *driver.command()[5:]]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert ("PROMISED" if name == "pools" else "nothing found") in said


def _attach(image: Path, name: str) -> str:
    """A second device for an image: what the daemon never does, and the kernel allows."""
    from plugins.csi.pool import devices

    fd = os.open(image, os.O_RDWR)
    try:
        return devices._attach(fd, 0, name).path
    finally:
        os.close(fd)
