"""The volume part: data that outlives the daemon's kill -9, on the kubelet's real paths."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from plugins.demo import trees
from plugins.demo.report import human
from plugins.demo.trees import Source, Tree
from plugins.demo.world import World
from plugins.lab.errors import LabError
from plugins.lab.paths import mounted_below
from plugins.lab.provisioner import Claim, Volume
from plugins.lab.volumes import Published

PART = "volume"
POD = "demo-pod"
_MIB = 1 << 20


class VolumePart:
    """Create, stage, publish, fill, kill, read back; and the way back."""

    def __init__(self, world: World, source: Source) -> None:
        self._world = world
        self._source = source
        self._needed = trees.size(source)
        # The pool holds the volume, what the daemon keeps free (256 MiB), and XFS's own structures.
        self._size = max(1024 * _MIB, _rounded(self._needed * 5 // 4))
        self.process = world.supervisor.daemon(
            "csi",
            kubelet_dir=world.kubelet.root,
            state_dir=world.root / "csi",
            settings=[f"embedded_size={self._size + 1024 * _MIB}"],
        )
        self._volume: Volume | None = None
        self._published: Published | None = None

    @property
    def mounted_at(self) -> Path | None:
        """Where the volume is, for a person who wants to look."""
        return self._published.path if self._published else None

    def run(self) -> None:
        """All steps; raises StepFailed."""
        driver = self._registered()
        volume = self._created(driver)
        published = self._publish(volume)
        tree = self._filled(published)
        self._killed(driver)
        self._read_back(published, tree)
        self._mounted_again(volume, published, tree)

    def remove(self) -> None:
        """Unpublish, unstage, delete; raises StepFailed."""
        with self._world.report.step(PART, "unpublish, unstage, delete") as step:
            self.undo()
            left = [str(point) for point in mounted_below(self._world.kubelet.root)]
            shown = json.loads(
                self._world.tool("csi", "volumes", "--state-dir", str(self._world.root / "csi"), "--output", "json")
            )
            left += [volume["id"] for volume in shown["volumes"]]
            if left:
                raise LabError(f"still there: {', '.join(left)}")
            step.result = "nothing mounted, no volume left"

    def undo(self) -> None:
        """The way back, from wherever we are."""
        volumes = self._world.kubelet.volumes
        if self._published:
            volumes.unpublish(self._published)
            volumes.remove_pod(POD)
            self._published = None
        if self._volume:
            volumes.unstage(self._volume)
            volumes.delete(self._volume)
            self._volume = None

    def _registered(self) -> str:
        world = self._world
        with world.report.step(PART, "register with the kubelet") as step:
            free = shutil.disk_usage(world.root).free
            if free < self._needed + 512 * _MIB:
                raise LabError(f"{human(self._needed)} of data, and only {human(free)} free in {world.root.parent}")
            entry = world.wait(self.process, lambda: next(iter(world.kubelet.node.drivers.values()), None))
            step.result = f"{entry.name} on node {entry.node_id}, in CSINode"
            step.facts = {"driver": entry.name, "node_id": entry.node_id, "topology": dict(entry.topology)}
            return entry.name

    def _created(self, driver: str) -> Volume:
        with self._world.report.step(PART, "create a volume") as step:
            claim = Claim(driver, self._size, fs_type="ext4")
            volume = self._volume = self._world.kubelet.volumes.provision(claim)
            step.result = f"{volume.handle}, {human(volume.capacity)}"
            step.facts = {"volume_id": volume.handle, "bytes": volume.capacity}
            return volume

    def _publish(self, volume: Volume) -> Published:
        with self._world.report.step(PART, "stage and publish it") as step:
            self._world.kubelet.volumes.stage(volume)
            published = self._mount(volume)
            step.result = f"ext4 at {published.path.relative_to(self._world.root)}"
            step.facts = {"path": str(published.path)}
            return published

    def _filled(self, published: Published) -> Tree:
        with self._world.report.step(PART, "fill it with a directory tree") as step:
            tree = trees.copy(self._source, published.path / "data")
            step.result = f"{self._source.path}: {tree.files} files, {human(tree.bytes)}, sha256 {tree.digest[:16]}"
            step.facts = {"files": tree.files, "bytes": tree.bytes, "sha256": tree.digest}
            return tree

    def _killed(self, driver: str) -> None:
        with self._world.report.step(PART, "kill -9 the daemon, restart it") as step:
            world, old = self._world, self.process.pid
            self.process.kill()
            mark = world.kubelet.journal.mark()
            world.start(self.process)
            # A registration socket that is made anew costs an unregister and a register, as on a node.
            world.wait(
                self.process, lambda: next(iter(world.kubelet.journal.events("register", driver, since=mark)), None)
            )
            step.result = f"process {old} killed, {self.process.pid} serves, registered again"

    def _read_back(self, published: Published, tree: Tree) -> None:
        with self._world.report.step(PART, "read it back by checksum") as step:
            _compare(published, tree)
            step.result = f"{tree.files} files equal; the mount outlived the daemon"

    def _mounted_again(self, volume: Volume, published: Published, tree: Tree) -> None:
        with self._world.report.step(PART, "unmount, mount, read from disk") as step:
            volumes = self._world.kubelet.volumes
            volumes.unpublish(published)
            self._published = None
            volumes.unstage(volume)
            volumes.stage(volume)
            _compare(self._mount(volume), tree)
            step.result = f"{tree.files} files equal, sha256 {tree.digest[:16]}"

    def _mount(self, volume: Volume) -> Published:
        published = self._published = self._world.kubelet.volumes.publish(volume, POD)
        if not os.path.ismount(published.path):
            raise LabError(f"NodePublishVolume succeeded, but nothing is mounted at {published.path}")
        return published


def _compare(published: Published, tree: Tree) -> None:
    found = trees.read(Source(published.path / "data"))
    if found != tree:
        raise LabError(f"the data is not what was written: {found} instead of {tree}")


def _rounded(size: int) -> int:
    return -(-size // (64 * _MIB)) * 64 * _MIB
