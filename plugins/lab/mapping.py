"""What the kubelet itself does with a published block device: a bind mount, a link, and a hand on the device.

The kubelet keeps the device open by a loop device on top of it, so that it cannot vanish and come back as another one
under the same name. Here an open descriptor does that: the driver sees a device in use, as on a node.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from plugins.core import command
from plugins.lab.errors import LabError
from plugins.lab.paths import VolumePaths, is_mounted

_TIMEOUT = 30.0  # seconds for mount(8) and umount(8)


class BlockMaps:
    """The mapped devices of one kubelet."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}

    def map(self, at: VolumePaths, pod: str) -> Path:
        """Map the device at the publish path; returns the link that the container runtime is given."""
        device, mapped, link = at.block_target(pod), at.map_file(pod), at.device_link(pod)
        if not device.exists():
            raise LabError(f"NodePublishVolume succeeded but there is no device at {device}")
        for folder in (mapped.parent, link.parent):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not is_mounted(mapped):
            mapped.touch()
            command.run(["mount", "--bind", str(device), str(mapped)], timeout=_TIMEOUT)
        if not link.is_symlink():
            link.symlink_to(device)
        if mapped not in self._held:
            self._held[mapped] = os.open(mapped, os.O_RDONLY | os.O_CLOEXEC)
        return link

    def unmap(self, at: VolumePaths, pod: str) -> None:
        """Undo it; what is gone already is no error."""
        mapped, link = at.map_file(pod), at.device_link(pod)
        held = self._held.pop(mapped, None)
        if held is not None:
            os.close(held)
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other volumes of the pod are in it
            link.parent.rmdir()
        if is_mounted(mapped):
            command.run(["umount", str(mapped)], timeout=_TIMEOUT)
        mapped.unlink(missing_ok=True)
