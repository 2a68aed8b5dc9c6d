"""The lab's volume manager does to a CSI driver what kubelet and provisioner do. No mounts: see tests/system."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.lab.errors import LabError, Transient
from plugins.lab.kubelet import Kubelet
from plugins.lab.nodeclient import VolumeError
from plugins.lab.paths import mounted_below
from plugins.lab.provisioner import Claim, Volume
from tests.contract.lab.fakes import FakeCsi, FakeRegistration, Servers, csi_driver

NAME = "csi.example.org"
TOPOLOGY = {"topology.example.org/node": "one"}
SIZE = 1 << 20


@pytest.fixture
def driver(kubelet: Kubelet, servers: Servers) -> FakeCsi:
    fake = csi_driver(topology=TOPOLOGY)
    endpoint = kubelet.root / "plugins" / NAME / "csi.sock"
    servers.serve(endpoint, fake.add)
    registration = FakeRegistration("CSIPlugin", NAME, endpoint)
    servers.serve(kubelet.root / "plugins_registry" / "x.sock", registration.add)
    kubelet.wait_registered(NAME, timeout=10)
    fake.requests.clear()
    return fake


def volume(kubelet: Kubelet) -> Volume:
    return kubelet.volumes.provision(Claim(NAME, SIZE, fs_type="ext4", mount_options=("noatime",)))


def only(driver: FakeCsi, kind: type) -> object:
    found = [r for r in driver.requests if isinstance(r, kind)]
    assert len(found) == 1
    return found[0]


def test_a_claim_carries_the_topology_of_the_node(kubelet: Kubelet, driver: FakeCsi) -> None:
    made = volume(kubelet)
    request = only(driver, pb.CreateVolumeRequest)
    assert isinstance(request, pb.CreateVolumeRequest)
    assert request.name == made.name and made.name.startswith("pvc-")
    assert request.capacity_range.required_bytes == SIZE
    assert dict(request.accessibility_requirements.preferred[0].segments) == TOPOLOGY
    assert dict(request.accessibility_requirements.requisite[0].segments) == TOPOLOGY
    assert list(request.volume_capabilities[0].mount.mount_flags) == ["noatime"]


def test_the_paths_are_the_kubelets_and_the_driver_makes_the_target_only(kubelet: Kubelet, driver: FakeCsi) -> None:
    made = volume(kubelet)
    staging = kubelet.volumes.stage(made)
    digest = hashlib.sha256(made.handle.encode()).hexdigest()
    assert staging == kubelet.root / "plugins" / "kubernetes.io" / "csi" / NAME / digest / "globalmount"
    assert json.loads((staging.parent / "vol_data.json").read_text())["volumeHandle"] == made.handle
    published = kubelet.volumes.publish(made, "pod-1")
    folder = kubelet.root / "pods" / "pod-1" / "volumes" / "kubernetes.io~csi" / made.name
    assert published.target == published.path == folder / "mount"
    assert (folder / "vol_data.json").exists()
    request = only(driver, pb.NodePublishVolumeRequest)
    assert isinstance(request, pb.NodePublishVolumeRequest)
    assert request.staging_target_path == str(staging)
    assert request.volume_capability.mount.fs_type == "ext4"
    assert staging.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o750


def test_the_way_back_leaves_nothing(kubelet: Kubelet, driver: FakeCsi) -> None:
    made = volume(kubelet)
    staging = kubelet.volumes.stage(made)
    published = kubelet.volumes.publish(made, "pod-1")
    kubelet.volumes.unpublish(published)
    kubelet.volumes.remove_pod("pod-1")
    kubelet.volumes.unstage(made)
    kubelet.volumes.unstage(made)  # nothing is left of it: the driver is not called again
    kubelet.volumes.delete(made)
    assert not staging.parent.exists()
    assert list((kubelet.root / "pods").iterdir()) == []
    assert len([r for r in driver.requests if isinstance(r, pb.NodeUnstageVolumeRequest)]) == 1


def test_a_block_volume_has_other_paths(kubelet: Kubelet, driver: FakeCsi) -> None:
    made = kubelet.volumes.provision(Claim(NAME, SIZE, block=True))
    devices = kubelet.root / "plugins" / "kubernetes.io" / "csi" / "volumeDevices"
    assert kubelet.volumes.stage(made) == devices / "staging" / made.name
    assert (devices / made.name / "data" / "vol_data.json").exists()
    request = only(driver, pb.NodeStageVolumeRequest)
    assert isinstance(request, pb.NodeStageVolumeRequest)
    assert request.volume_capability.HasField("block")
    kubelet.volumes.unstage(made)
    assert list((devices / "staging").iterdir()) == []


def test_a_driver_without_staging_is_not_staged(kubelet: Kubelet, driver: FakeCsi) -> None:
    driver.stages = False
    made = volume(kubelet)
    kubelet.volumes.stage(made)
    published = kubelet.volumes.publish(made, "pod-1")
    request = only(driver, pb.NodePublishVolumeRequest)
    assert isinstance(request, pb.NodePublishVolumeRequest)
    assert request.staging_target_path == ""
    kubelet.volumes.unpublish(published)
    kubelet.volumes.unstage(made)
    assert not any(isinstance(r, pb.NodeStageVolumeRequest | pb.NodeUnstageVolumeRequest) for r in driver.requests)


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.INVALID_ARGUMENT, False),
        (grpc.StatusCode.ABORTED, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    ],
)
def test_after_a_failure_for_good_the_kubelet_cleans_up(
    kubelet: Kubelet, driver: FakeCsi, status: grpc.StatusCode, kept: bool
) -> None:
    made = volume(kubelet)
    driver.fail = {"NodeStageVolume": status, "NodePublishVolume": status}
    with pytest.raises(VolumeError) as failed:
        kubelet.volumes.stage(made)
    assert failed.value.final is not kept
    assert kubelet.volumes.paths(made).global_mount.exists() is kept
    with pytest.raises(VolumeError):
        kubelet.volumes.publish(made, "pod-1")
    assert kubelet.volumes.paths(made).mount_target("pod-1").parent.exists() is kept


def test_a_target_with_files_left_in_it_is_found_out(kubelet: Kubelet, driver: FakeCsi) -> None:
    made = volume(kubelet)
    published = kubelet.volumes.publish(made, "pod-1")
    (published.target / "file").write_text("the driver should have unmounted this")
    driver.keep_target = True
    with pytest.raises(LabError, match="failed to remove dir"):
        kubelet.volumes.unpublish(published)
    with pytest.raises(LabError, match="volume paths are still present"):
        kubelet.volumes.remove_pod("pod-1")


def test_a_buggy_driver_that_leaves_an_empty_target_is_helped(kubelet: Kubelet, driver: FakeCsi) -> None:
    published = kubelet.volumes.publish(volume(kubelet), "pod-1")
    driver.keep_target = True
    kubelet.volumes.unpublish(published)
    assert not published.target.exists()


def test_a_driver_that_is_not_registered_is_waited_for(kubelet: Kubelet) -> None:
    with pytest.raises(Transient, match="not found in the list of registered CSI drivers"):
        kubelet.volumes.provision(Claim(NAME, SIZE))


def test_a_volume_smaller_than_asked_for_is_deleted_again(
    kubelet: Kubelet, driver: FakeCsi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(request: pb.CreateVolumeRequest, context: grpc.ServicerContext) -> pb.CreateVolumeResponse:
        return pb.CreateVolumeResponse(volume=pb.Volume(volume_id="v", capacity_bytes=1))

    monkeypatch.setattr(driver, "CreateVolume", small)
    # The method was bound when the server was made: serve the changed driver at the registered endpoint.
    with Servers() as again:
        endpoint = Path(kubelet.drivers.get(NAME).endpoint)
        again.serve(endpoint, driver.add)
        with pytest.raises(LabError, match="less than requested"):
            kubelet.volumes.provision(Claim(NAME, SIZE))
    assert isinstance(driver.requests[-1], pb.DeleteVolumeRequest)


class BlockDriver(FakeCsi):
    """Publishes a loop device by a bind mount, as drivers do."""

    device = ""

    def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        Path(request.target_path).touch()
        subprocess.run(["mount", "--bind", self.device, request.target_path], check=True)
        return pb.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        if not self.keep_target:
            subprocess.run(["umount", request.target_path], check=True)
            Path(request.target_path).unlink()
        return pb.NodeUnpublishVolumeResponse()


@pytest.fixture
def device(folder: Path) -> Iterator[str]:
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    found = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
    yield found.stdout.strip()
    subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


def open_files() -> list[Path]:
    """What this process, and so the lab's kubelet, holds open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # other threads close theirs meanwhile
            found.append(link.readlink())
    return found


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts and loop devices need root")
def test_a_published_block_device_is_mapped_and_held_open(kubelet: Kubelet, servers: Servers, device: str) -> None:
    driver = BlockDriver()  # type: ignore[abstract]
    driver.device = device
    endpoint = kubelet.root / "plugins" / NAME / "csi.sock"
    servers.serve(endpoint, driver.add)
    servers.serve(kubelet.root / "plugins_registry" / "x.sock", FakeRegistration("CSIPlugin", NAME, endpoint).add)
    kubelet.wait_registered(NAME, timeout=10)
    made = kubelet.volumes.provision(Claim(NAME, SIZE, block=True))
    kubelet.volumes.stage(made)
    published = kubelet.volumes.publish(made, "pod-1")
    at = kubelet.volumes.paths(made)
    assert published.target == at.block_publish_folder() / "pod-1"
    assert published.path == kubelet.root / "pods" / "pod-1" / "volumeDevices" / "kubernetes.io~csi" / made.name
    assert published.path.is_block_device()
    assert mounted_below(kubelet.root) == [published.target, at.map_file("pod-1")]
    assert at.map_file("pod-1") in open_files()
    driver.keep_target = True
    with pytest.raises(LabError, match="is still there"):
        kubelet.volumes.unpublish(published)
    driver.keep_target = False
    kubelet.volumes.unpublish(published)
    kubelet.volumes.remove_pod("pod-1")
    kubelet.volumes.unstage(made)
    assert mounted_below(kubelet.root) == []
    assert not at.block_folder.exists()
