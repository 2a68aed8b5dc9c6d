"""Ids, names and paths that are attacks get INVALID_ARGUMENT, and nothing is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import Driver, capability, refused
from tools import leaks

EVERYWHERE = pb.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER
INVALID = grpc.StatusCode.INVALID_ARGUMENT

IDS = ["../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\0b", "a\nb", "x" * 129, "\u202evol"]
NAMES = ["../../etc/passwd", "/", ".", "..", "a/b", "a\0b", "a\rb", "x" * 129, "ä" * 65]
PATHS = ["relative", "relative/path", "/", "/etc", "/etc/target", "/dev/shm/target", "//etc", "/proc/self/cwd/target"]
BELOW = [
    "",
    "/../../../etc/target",
    "/./target",
    "/a//target",
    "/..",
    "/" + "x" * 256,
    "/" + "y/" * 2100 + "z",
    "/a\0b",
]


def everything(root: Path) -> set[tuple[str, int]]:
    """All that exists below a folder, with its inode."""
    found = {(path, os.lstat(path).st_ino) for path in map(str, root.rglob("*"))}
    return {(path, inode) for path, inode in found if not path.startswith(str(root / "state" / "run"))}


class Quiet(Driver):
    """A daemon that all tests of attacks share, with one staged volume."""

    volume = ""


@pytest.fixture(scope="module")
def attacked() -> Iterator[Quiet]:
    root = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    driver = Quiet(root)
    driver.start()
    driver.volume = driver.create("ext4", "victim")
    yield driver
    driver.clean()
    shutil.rmtree(root)


@pytest.fixture
def quiet(attacked: Quiet) -> Iterator[Quiet]:
    """Nothing of it may change in a test."""
    before = everything(attacked.root), attacked.loops(), attacked.mounts()
    yield attacked
    assert (everything(attacked.root), attacked.loops(), attacked.mounts()) == before


@pytest.mark.parametrize("volume_id", IDS)
def test_volume_ids(quiet: Quiet, volume_id: str) -> None:
    with refused(INVALID):
        quiet.delete(volume_id)
    with refused(INVALID):
        quiet.stage(volume_id, "ext4")
    with refused(INVALID):
        quiet.publish(volume_id, "ext4")
    with refused(INVALID):
        quiet.unpublish(volume_id)
    with refused(INVALID):
        quiet.unstage(volume_id)
    with refused(INVALID):
        request = pb.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=[capability("ext4")])
        quiet.controller.ValidateVolumeCapabilities(request)


@pytest.mark.parametrize("name", NAMES)
def test_names(quiet: Quiet, name: str) -> None:
    with refused(INVALID, "name"):
        quiet.create("ext4", name)


@pytest.mark.parametrize("path", PATHS)
def test_paths(quiet: Quiet, path: str) -> None:
    _all_paths_are_refused(quiet, path)


@pytest.mark.parametrize("path", BELOW)
def test_paths_that_begin_well(quiet: Quiet, path: str) -> None:
    _all_paths_are_refused(quiet, f"{quiet.pods}{path}")


@pytest.mark.parametrize("kind", ["block", "ext4"])
@pytest.mark.parametrize("last", [True, False], ids=["last component", "on the way"])
def test_symbolic_links_are_not_followed(driver: Driver, kind: str, last: bool) -> None:
    volume = driver.create(kind)
    driver.stage(volume, kind)
    outside = driver.root / "outside"
    outside.mkdir()
    link = driver.pods / "link"
    link.symlink_to(outside)
    target = link if last else link / "target"
    with refused(INVALID, "symbolic link"):
        driver.publish(volume, kind, target)
    with refused(INVALID, "symbolic link"):
        driver.unpublish(volume, target)
    with refused(INVALID, "symbolic link"):
        driver.unstage(volume, target)
    assert (list(outside.iterdir()), link.is_symlink()) == ([], True)
    driver.unstage(volume)
    with refused(INVALID, "symbolic link"):
        driver.stage(volume, "ext4" if kind == "ext4" else "block", link)
    driver.delete(volume)


def test_a_link_inside_the_volume_leads_nowhere(driver: Driver) -> None:
    """A pod may put any link into its volume: a path that leads through it is refused."""
    volume = driver.ready("ext4")
    (driver.target / "out").symlink_to("/etc")
    with refused(INVALID, "symbolic link"):
        driver.publish(volume, "ext4", driver.target / "out" / "target")
    driver.remove(volume)


def test_files_of_others_stay(driver: Driver) -> None:
    volume = driver.create("ext4")
    full, folder = driver.pods / "file", driver.pods / "folder"
    full.write_text("somebody's")
    folder.mkdir()
    (folder / "inside").touch()
    driver.unpublish(volume, full)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "not the volume's"):
        driver.unpublish(volume, folder)
    driver.stage(volume, "ext4")
    with refused(INVALID, "no directory"):
        driver.publish(volume, "ext4", full)
    assert (full.read_text(), (folder / "inside").exists()) == ("somebody's", True)
    driver.unstage(volume)
    driver.delete(volume)


@pytest.mark.parametrize(
    "flags",
    [
        ["bind"],
        ["logdev=/dev/vda"],
        ["journal_path=/dev/vda"],
        ["errors=panic"],
        ["noload"],
        ["data=ordered,loop"],
        ["commit=1\0,x"],
        ["commit=" + "9" * 65],
        ["x-systemd.automount"],
        ["source=/dev/vda"],
        ["=5"],
        [""],
    ],
)
def test_mount_options(quiet: Quiet, flags: list[str]) -> None:
    request = pb.CreateVolumeRequest(name="options", volume_capabilities=[capability("ext4", flags=flags)])
    with refused(INVALID, "mount option"):
        quiet.controller.CreateVolume(request)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"capacity_range": pb.CapacityRange(required_bytes=-1)}, INVALID),
        ({"capacity_range": pb.CapacityRange(limit_bytes=-1)}, INVALID),
        ({"capacity_range": pb.CapacityRange(required_bytes=2, limit_bytes=1)}, grpc.StatusCode.OUT_OF_RANGE),
        ({"capacity_range": pb.CapacityRange(limit_bytes=4096)}, grpc.StatusCode.OUT_OF_RANGE),
        ({"capacity_range": pb.CapacityRange(required_bytes=1 << 62)}, grpc.StatusCode.OUT_OF_RANGE),
        ({"capacity_range": pb.CapacityRange(required_bytes=1 << 50)}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"parameters": {"replicas": "3"}}, INVALID),
        ({"mutable_parameters": {"iops": "3"}}, INVALID),
        ({"volume_content_source": pb.VolumeContentSource()}, INVALID),
        ({"volume_capabilities": [pb.VolumeCapability()]}, INVALID),
        ({"volume_capabilities": []}, INVALID),
        ({"volume_capabilities": [capability("ntfs")]}, INVALID),
        ({"volume_capabilities": [capability("ext4"), capability("xfs")]}, INVALID),
        (
            {"volume_capabilities": [capability("ext4", EVERYWHERE)]},
            INVALID,
        ),
        ({"volume_capabilities": [capability("ext4", 99)]}, INVALID),  # type: ignore[arg-type]
    ],
)
def test_requests_that_cannot_be_served(quiet: Quiet, change: dict[str, object], code: grpc.StatusCode) -> None:
    fields: dict[str, object] = {"name": "refused", "volume_capabilities": [capability("ext4")]}
    request = pb.CreateVolumeRequest(**{**fields, **change})  # type: ignore[arg-type]
    with refused(code):
        quiet.controller.CreateVolume(request)


def _all_paths_are_refused(quiet: Quiet, path: str) -> None:
    volume = quiet.volume
    with refused(INVALID):
        quiet.stage(volume, "ext4", path)
    with refused(INVALID):
        quiet.unstage(volume, path)
    with refused(INVALID):
        quiet.publish(volume, "ext4", path)
    with refused(INVALID):
        quiet.unpublish(volume, path)
    with refused(INVALID if path == "" else grpc.StatusCode.NOT_FOUND):
        quiet.node.NodeGetVolumeStats(pb.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=path))
