"""Snapshots, groups and copies, as the sidecars ask for them; and looks at what is in them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core import client
from tests.system.csi.kit import SIZES, Driver, capability


def snapshot(driver: Driver, volume: str, name: str = "snapshot", consistency: str = "") -> pb.Snapshot:
    """CreateSnapshot."""
    request = pb.CreateSnapshotRequest(name=name, source_volume_id=volume)
    if consistency:
        request.parameters["consistency"] = consistency
    return driver.controller.CreateSnapshot(request, timeout=30).snapshot


def unsnapshot(driver: Driver, snapshot_id: str) -> None:
    """DeleteSnapshot."""
    driver.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=snapshot_id), timeout=30)


def listed(driver: Driver, source_volume_id: str = "", snapshot_id: str = "") -> list[str]:
    """The ids of the snapshots that ListSnapshots gives, all in one page."""
    request = pb.ListSnapshotsRequest(source_volume_id=source_volume_id, snapshot_id=snapshot_id)
    found = driver.controller.ListSnapshots(request, timeout=30)
    return [entry.snapshot.snapshot_id for entry in found.entries]


def copy(driver: Driver, source: str, kind: str, name: str = "copy", size: int = 0) -> str:
    """CreateVolume from a snapshot or a volume, by the kind of its id; returns the new volume's id."""
    request = pb.CreateVolumeRequest(name=name, volume_capabilities=[capability(kind)])
    request.capacity_range.required_bytes = size or SIZES[kind or "ext4"]
    if source.startswith("snap"):
        request.volume_content_source.snapshot.snapshot_id = source
    else:
        request.volume_content_source.volume.volume_id = source
    volume = driver.controller.CreateVolume(request, timeout=30).volume.volume_id
    driver.tokens.add(volume.partition(".")[0])
    return volume


def groups(driver: Driver) -> rpc.GroupControllerStub:
    """The group service."""
    return rpc.GroupControllerStub(client.channel(driver.root / "csi.sock"))


def group(driver: Driver, volumes: Sequence[str], name: str = "group", consistency: str = "") -> pb.VolumeGroupSnapshot:
    """CreateVolumeGroupSnapshot."""
    request = pb.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=volumes)
    if consistency:
        request.parameters["consistency"] = consistency
    return groups(driver).CreateVolumeGroupSnapshot(request, timeout=30).group_snapshot


def ungroup(driver: Driver, group_id: str) -> None:
    """DeleteVolumeGroupSnapshot."""
    request = pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group_id)
    groups(driver).DeleteVolumeGroupSnapshot(request, timeout=30)


class Place:
    """A staging path and a target of their own, so that several volumes can be in use at once."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.staging = driver.staging.with_name(f"staging-{name}")
        self.staging.mkdir(exist_ok=True)
        self.target = driver.pods / f"target-{name}"

    def show(self, volume: str, kind: str, flags: Sequence[str] = ()) -> Path:
        """Stage and publish; returns the target."""
        self.driver.stage(volume, kind, self.staging, flags)
        self.driver.publish(volume, kind, self.target, staging=self.staging, flags=flags)
        return self.target

    def hide(self, volume: str) -> None:
        """The opposite."""
        self.driver.unpublish(volume, self.target)
        self.driver.unstage(volume, self.staging)


def fill(directory: Path, files: int = 20, size: int = 64 << 10) -> dict[str, str]:
    """Files with random content, durably; returns their checksums by name."""
    for number in range(files):
        with (directory / f"file-{number}").open("wb") as file:
            file.write(os.urandom(size))
            os.fsync(file.fileno())
    return checksums(directory)


def checksums(directory: Path) -> dict[str, str]:
    """Checksums of the files in a directory by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir()) if p.is_file()}


def check_clean(driver: Driver, folder: str, an_id: str, kind: str) -> None:
    """The filesystem in an image has no error and needs no recovery; a look only."""
    image = str(driver.pool / folder / f"{an_id.partition('.')[0]}.img")
    argv = ["e2fsck", "-f", "-n", image] if kind == "ext4" else ["xfs_repair", "-n", "-f", image]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def snapshot_images(driver: Driver) -> list[str]:
    """Files of snapshots, finished or not."""
    return sorted(os.listdir(driver.pool / "snapshots"))


def assert_no_snapshot(driver: Driver) -> None:
    """Neither a file nor a row nor an intent of a snapshot or a group."""
    assert listed(driver) == []
    assert snapshot_images(driver) == []
    db = sqlite3.connect(f"file:{driver.root}/state/state.db?mode=ro", uri=True)
    for table in ("snapshots", "groups", "intents"):
        assert db.execute(f"SELECT * FROM {table}").fetchall() == [], table
    db.close()
