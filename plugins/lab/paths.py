"""Where the kubelet puts volumes, and what it writes beside them. Measured and read in Kubernetes 1.36 (volume/csi)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

PLUGIN = "kubernetes.io/csi"
ESCAPED = "kubernetes.io~csi"
DATA = "vol_data.json"


@dataclass(frozen=True)
class VolumePaths:
    """All paths of one volume under one kubelet folder. name: of the PersistentVolume."""

    root: Path
    driver: str
    handle: str
    name: str

    @property
    def _plugin(self) -> Path:
        return self.root / "plugins" / PLUGIN

    @property
    def global_mount(self) -> Path:
        """Staging path of a filesystem volume; its parent is named after the sha256 of the volume's handle."""
        return self._plugin / self.driver / hashlib.sha256(self.handle.encode()).hexdigest() / "globalmount"

    @property
    def block_staging(self) -> Path:
        """Staging path of a block volume: a directory in which the driver may put what it likes."""
        return self._plugin / "volumeDevices" / "staging" / self.name

    @property
    def block_folder(self) -> Path:
        """What the kubelet keeps about a block volume: data/vol_data.json and dev/<pod>."""
        return self._plugin / "volumeDevices" / self.name

    def staging(self, block: bool) -> Path:
        """The staging path of either kind."""
        return self.block_staging if block else self.global_mount

    def mount_target(self, pod: str) -> Path:
        """Target of a filesystem volume in a pod; the kubelet makes its parent, the driver the target itself."""
        return self.pod(pod) / "volumes" / ESCAPED / self.name / "mount"

    def block_publish_folder(self) -> Path:
        """Parent of the targets of a block volume."""
        return self._plugin / "volumeDevices" / "publish" / self.name

    def block_target(self, pod: str) -> Path:
        """Target of a block volume: a device file, or a file that a device is bound to."""
        return self.block_publish_folder() / pod

    def target(self, pod: str, block: bool) -> Path:
        """The target path of either kind."""
        return self.block_target(pod) if block else self.mount_target(pod)

    def map_file(self, pod: str) -> Path:
        """The kubelet's own bind mount of a published block device."""
        return self.block_folder / "dev" / pod

    def device_link(self, pod: str) -> Path:
        """The link in the pod's folder that the container runtime is given."""
        return self.pod(pod) / "volumeDevices" / ESCAPED / self.name

    def pod(self, pod: str) -> Path:
        """A pod's folder."""
        return self.root / "pods" / pod


def mount_points() -> list[Path]:
    """Everything that is mounted (mountinfo), in the order of mounting; also over files."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return [Path(_unescaped(line.split(" ")[4])) for line in table]


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    return path in mount_points()


def mounted_below(path: Path) -> list[Path]:
    """What is mounted there or in any folder below."""
    return [point for point in mount_points() if point.is_relative_to(path)]


def save_data(folder: Path, data: dict[str, str]) -> None:
    """vol_data.json: what a restarted kubelet needs for the way back."""
    (folder / DATA).write_text(json.dumps(data))


def load_data(folder: Path) -> dict[str, str] | None:
    """What was saved; None: nothing."""
    try:
        return dict(json.loads((folder / DATA).read_text()))
    except FileNotFoundError:
        return None


def _unescaped(field: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as three octal digits."""
    head, *rest = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
