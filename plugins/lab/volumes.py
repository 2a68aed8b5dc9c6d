"""The kubelet's volume manager, as far as a CSI driver sees it.

Who makes what: the kubelet makes the staging directory and the *parent* of the target; the driver makes the target and
removes it. After a call that failed for good the kubelet removes what it made, unless something is mounted there; after
one that may still be under way (ABORTED, UNAVAILABLE, DEADLINE_EXCEEDED, ...) it leaves everything and calls again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.lab import paths
from plugins.lab.csinode import CsiDrivers
from plugins.lab.errors import LabError
from plugins.lab.journal import Journal
from plugins.lab.mapping import BlockMaps
from plugins.lab.nodeclient import NodeClient, VolumeError
from plugins.lab.provisioner import Claim, Provisioner, Volume
from plugins.lab.timings import KubeletTimings


@dataclass(frozen=True)
class Published:
    """A volume in a pod.

    target: the driver's target path.
    path: what the container runtime is given: the target, or for a block volume a link to it.
    """

    volume: Volume
    pod: str
    target: Path
    path: Path


class VolumeManager:
    """Stage, publish and back, on the real paths, with the kubelet's deadline of two minutes and its checks."""

    def __init__(self, root: Path, drivers: CsiDrivers, journal: Journal, timings: KubeletTimings) -> None:
        self._root = root
        self._drivers = drivers
        self._journal = journal
        self._timings = timings
        self._maps = BlockMaps()
        self._provisioner = Provisioner(drivers, timings)

    def provision(self, claim: Claim, *, name: str = "") -> Volume:
        """See Provisioner.create."""
        volume = self._provisioner.create(claim, name=name)
        self._journal.record("provisioned", volume.name, handle=volume.handle, capacity=volume.capacity)
        return volume

    def delete(self, volume: Volume) -> None:
        """See Provisioner.delete."""
        self._provisioner.delete(volume)
        self._journal.record("deleted", volume.name, handle=volume.handle)

    def paths(self, volume: Volume) -> paths.VolumePaths:
        """Where everything of a volume lies."""
        return paths.VolumePaths(self._root, volume.claim.driver, volume.handle, volume.name)

    def stage(self, volume: Volume) -> Path:
        """NodeStageVolume, where the driver has that step; returns the staging path."""
        at, block = self.paths(volume), volume.claim.block
        path = at.staging(block)
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        data = at.block_folder / "data" if block else path.parent
        data.mkdir(mode=0o750, parents=True, exist_ok=True)
        paths.save_data(data, {"volumeHandle": volume.handle, "driverName": volume.claim.driver})
        with self._node(volume) as node, _undone(lambda: _clean_block(at) if block else _remove_mount(path)):
            if node.stages:
                node.stage(volume, path)
        self._journal.record("staged", volume.name, path=path)
        return path

    def unstage(self, volume: Volume) -> None:
        """NodeUnstageVolume; where nothing is left of the staging the driver is not called."""
        at, block = self.paths(volume), volume.claim.block
        path = at.staging(block)
        if not path.exists() if block else paths.load_data(path.parent) is None:
            return
        with self._node(volume) as node:
            if node.stages:
                node.unstage(volume, path)
        if left := paths.mounted_below(path):
            raise LabError(f"NodeUnstageVolume succeeded but {left} is still mounted")
        if block:
            shutil.rmtree(path)
            _clean_block(at)
        else:
            _remove_mount(path)
        self._journal.record("unstaged", volume.name)

    def publish(
        self, volume: Volume, pod: str, *, read_only: bool = False, pod_info: Mapping[str, str] | None = None
    ) -> Published:
        """NodePublishVolume into a pod; for a block volume also the kubelet's own mapping of the device.

        Args:
            pod: the pod's uid.
            read_only: as the pod's volume says; a claim that is read-only is so in any case.
            pod_info: what CSIDriver.podInfoOnMount adds to the volume's context.
        """
        at, block = self.paths(volume), volume.claim.block
        target = at.target(pod, block)
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not block:
            paths.save_data(target.parent, self._pod_data(volume))
        with self._node(volume) as node, _undone(lambda: None if block else _remove_mount(target)):
            node.publish(volume, at.staging(block), target, read_only or volume.claim.read_only, pod_info or {})
        path = self._maps.map(at, pod) if block else target
        self._journal.record("published", volume.name, pod=pod, path=path)
        return Published(volume, pod, target, path)

    def unpublish(self, published: Published) -> None:
        """NodeUnpublishVolume, then the folders.

        Raises:
            LabError: the driver said yes and its target is still there. A real kubelet says nothing then, and can
                never remove the pod's folder: the pod stays in Terminating.
        """
        volume, pod, target = published.volume, published.pod, published.target
        at, block = self.paths(volume), volume.claim.block
        if block:
            self._maps.unmap(at, pod)
        with self._node(volume) as node:
            node.unpublish(volume, target)
        if paths.is_mounted(target) or (block and target.exists()):
            raise LabError(f"NodeUnpublishVolume succeeded but {target} is still there")
        if not block:
            _remove_mount(target)
        self._journal.record("unpublished", volume.name, pod=pod)

    def remove_pod(self, pod: str) -> None:
        """Remove the folders of a pod that has ended.

        Raises:
            LabError: something of its volumes is left.
        """
        folder = self._root / "pods" / pod
        for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
            if path.is_symlink() or not path.is_dir() or paths.is_mounted(path):
                raise LabError(f"orphaned pod {pod!r} found, but volume paths are still present on disk: {path}")
            path.rmdir()
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()

    def stats(self, published: Published) -> pb.NodeGetVolumeStatsResponse:
        """NodeGetVolumeStats, as the kubelet asks once a minute."""
        with self._node(published.volume) as node:
            return node.stats(published.volume, published.target)

    @contextlib.contextmanager
    def _node(self, volume: Volume) -> Iterator[NodeClient]:
        with self._drivers.connect(volume.claim.driver) as connection:
            yield NodeClient(connection, self._timings.csi)

    def _pod_data(self, volume: Volume) -> dict[str, str]:
        return {
            "specVolID": volume.name,
            "volumeHandle": volume.handle,
            "driverName": volume.claim.driver,
            "nodeName": self._drivers.node.name,
            "volumeLifecycleMode": "Persistent",
        }


@contextlib.contextmanager
def _undone(undo: Callable[[], None]) -> Iterator[None]:
    """Take away what was made for a call that failed for good."""
    try:
        yield
    except VolumeError as error:
        if error.final:
            undo()
        raise


def _remove_mount(path: Path) -> None:
    """Remove a mount point, the file beside it and the folder of both; but nothing while it is mounted.

    The removal is rmdir, so a driver that left files in a directory that it should have unmounted is found out.
    """
    if paths.is_mounted(path):
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        (path.parent / paths.DATA).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.parent.rmdir()
    except OSError as error:
        raise LabError(f"failed to remove dir {error.filename}: {error.strerror}") from error


def _clean_block(at: paths.VolumePaths) -> None:
    """Remove all that the kubelet made for a block volume. Nobody uses it any more, so the folders are empty."""
    for folder in (at.block_publish_folder(), at.block_staging):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LabError(f"failed to remove {folder}: {error.strerror}") from error
    shutil.rmtree(at.block_folder, ignore_errors=True)
