"""Loop devices and mounts against the records."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plugins.csi import ids
from plugins.csi.doctor.finding import Finding
from plugins.csi.host.mountinfo import Mount
from plugins.csi.ledger import Ledger, Row
from plugins.csi.pool import devices
from plugins.csi.pool.devices import Device
from plugins.csi.pool.loop import AUTOCLEAR, LoopStatus
from plugins.csi.publishing import VIEW
from plugins.csi.staging import IMAGE


@dataclass(frozen=True)
class Loop:
    """A device of ours. token: of its volume; shown: the device that it is a read-only view of."""

    device: Device
    status: LoopStatus
    token: str = ""
    shown: Device | None = None


def loops(pool: Path, records: Ledger, images: set[str]) -> list[Loop]:
    """Devices that carry our name and a token of ours, or an image in our folder; and the views of those.

    Args:
        images: tokens of the images in the pool.
    """
    tokens = {row["token"] for row in records.volumes} | images
    attached = list(devices.scan())
    folder = f"{pool}/volumes/"
    ours = []
    for device, status in attached:
        token = status.name.removeprefix(IMAGE)
        if status.name.startswith(IMAGE) and (token in tokens or _backing(device).startswith(folder)):
            ours.append(Loop(device, status, token))
    below = {loop.device.rdev: loop for loop in ours}
    for device, status in attached:
        if status.name.startswith(VIEW) and status.rdev in below:
            ours.append(Loop(device, status, below[status.rdev].token, below[status.rdev].device))
    return ours


def _backing(device: Device) -> str:
    try:
        return Path(f"/sys/block/loop{device.number}/loop/backing_file").read_text().strip()
    except OSError:
        return ""


def strays(loops: Iterable[Loop], records: Ledger) -> Iterator[Finding]:
    """Devices that no record explains, or that are not as they should be."""
    staged = {found.token for volume_id in records.stagings if (found := ids.parse(volume_id))}
    shown = {_rdev(row["target"]) for row in records.publications}
    seen: dict[tuple[int, int], str] = {}
    for loop in loops:
        path = loop.device.path
        if loop.shown:
            if loop.device.rdev not in shown:
                text = f"a read-only view of {loop.shown.path} that is published nowhere"
                yield Finding("stray-device", path, text, f"losetup --detach {path}, or start the daemon: it does so")
            continue
        key = (loop.status.device, loop.status.inode)
        if key in seen:
            yield Finding(
                *("attached-twice", path, f"the image of volume {loop.token!r} is attached as {seen[key]} as well"),
                "stop everything that uses the volume, unmount and detach both, and check the filesystem before use",
            )
        seen.setdefault(key, path)
        if loop.token not in staged and not records.announced(loop.token):
            text = f"the image of volume {loop.token!r} is attached and not staged"
            advice = f"see what uses it (lsof {path}; findmnt {path}); when nothing does: losetup --detach {path}"
            yield Finding("stray-device", path, text, advice)
        elif loop.status.flags & AUTOCLEAR:
            text = f"{path} of volume {loop.token!r} was told by somebody to detach itself when it is unmounted"
            yield Finding("autoclear", path, text, "nothing now; find out who runs losetup --detach on this node")


def _rdev(path: str) -> int:
    try:
        return os.lstat(path).st_rdev
    except OSError:
        return -1  # nothing is there


def mounted(
    loops: Iterable[Loop], records: Ledger, mounts: Iterable[Mount], roots: Iterable[Path]
) -> Iterator[Finding]:
    """Mounts of our volumes below the kubelet's directories that nothing records."""
    known = {row["path"] for row in records.stagings.values()} | {row["target"] for row in records.publications}
    by_rdev = {loop.device.rdev: loop for loop in loops}
    for mount in mounts:
        loop = by_rdev.get(mount.dev) or by_rdev.get(_bound_node(mount))
        inside = any(Path(mount.path).is_relative_to(root) for root in roots)
        if loop and inside and mount.path not in known and not records.announced(loop.token):
            yield Finding(
                *("stray-mount", mount.path, f"volume {loop.token!r} is mounted here and no record says so"),
                f"when no pod uses it: umount {mount.path}",
            )


def _bound_node(mount: Mount) -> int:
    """The number of the loop device whose node is bound here; -1 for other mounts."""
    name = mount.root.removeprefix("/")
    if not (name.startswith("loop") and name.removeprefix("loop").isdigit()):
        return -1
    try:
        status = os.lstat(f"/dev/{name}")
    except OSError:
        return -1
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else -1


def stagings(loops: Iterable[Loop], records: Ledger, mounts: Iterable[Mount]) -> Iterator[Finding]:
    """Records that the kernel does not bear out, as after a reboot."""
    attached: dict[str, list[Device]] = {}
    for loop in loops:
        if not loop.shown:
            attached.setdefault(loop.token, []).append(loop.device)
    there: dict[str, Mount] = {mount.path: mount for mount in mounts}
    for volume_id, row in records.stagings.items():
        token = volume_id.partition(".")[0]
        found, mount = attached.get(token), there.get(row["path"])
        if not found:
            text = f"staged at {row['path']} by record, but no device shows it: the node has started anew since"
            advice = "nothing: stage, publish, unstage and delete all cope with it; it goes with the first of them"
            yield Finding("stale-staging", volume_id, text, advice)
            continue
        if not row["block"] and (mount is None or mount.dev not in [device.rdev for device in found]):
            text = f"staged at {row['path']} by record, attached as {found[0].path}, but not mounted there"
            advice = "end the pods that use it and let them start again: the next stage or publish mounts it"
            yield Finding("staging-not-mounted", volume_id, text, advice)
        yield from _publications(volume_id, records.publications, there)


def _publications(volume_id: str, rows: Iterable[Row], there: dict[str, Mount]) -> Iterator[Finding]:
    for row in rows:
        if row["volume_id"] == volume_id and row["target"] not in there:
            text = f"published at {row['target']} by record, but not mounted there"
            advice = "end the pod and let it start again; if the pod has gone, its unpublish copes with it"
            yield Finding("publication-not-mounted", volume_id, text, advice)
