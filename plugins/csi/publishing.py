"""A staged volume shown at a target path: bind mounts of the staging mount, or of a device node.

publish     target made, bound, recorded
unpublish   unmounted, target removed, record removed
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from plugins.core import faults, log
from plugins.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from plugins.csi.host import mountoptions, mounts, syscalls
from plugins.csi.host.paths import Place, Roots
from plugins.csi.host.syscalls import Status
from plugins.csi.model import AccessMode, Capability, Publication, Staging, Volume
from plugins.csi.pool import devices
from plugins.csi.pool.devices import Device
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.staging import Stagings, check_capability

logger = log.get("csi.publishing")

VIEW = "nodeplug-view of loop"  # begins the name that a read-only view carries
_ST_RDONLY = 1  # statvfs(3): set by a read-only mount as well as by a read-only filesystem


class Publications:
    """Publish and unpublish. Callers hold the volume's lock."""

    def __init__(self, records: Records, pool: Pool, roots: Roots, stagings: Stagings) -> None:
        self._records = records
        self._pool = pool
        self._roots = roots
        self._stagings = stagings

    def publish(self, volume: Volume, capability: Capability, staging_path: str, target: str, read_only: bool) -> None:
        """Show a volume at a target.

        Raises:
            InvalidArgument, FailedPrecondition: the paths, the mode, or the volume is not staged there.
            AlreadyExists: it is published at this target in another way.
        """
        place = self._roots.place(target, "target_path")
        check_capability(volume, capability)
        options = mountoptions.parse(capability.flags, volume.fs)
        wanted = Publication(
            volume.id,
            place.path,
            read_only or capability.read_only or options.read_only,
            capability.mode,
            capability.flags,
        )
        staging, source = self._staged(volume, capability, staging_path)
        recorded = self._conflicts(wanted)
        device = self._stagings.ensure(volume, staging, source)
        if capability.block:
            self._show_device(device, place, wanted)
        else:
            self._show_directory(device, source, place, wanted, options.attributes)
        if not recorded:
            self._records.publish(wanted)
            faults.point("csi.publish.recorded")
            logger.debug("volume published", volume_id=volume.id, target=wanted.target, read_only=wanted.read_only)

    def unpublish(self, volume: Volume, target: str) -> None:
        """The opposite of publish. Nothing of anybody else's is touched, whatever is at the target.

        Raises:
            FailedPrecondition: the target is in use, or holds files of somebody else.
        """
        place = self._roots.place(target, "target_path")
        recorded = any(p.target == place.path for p in self._records.publications(volume.id))
        with place.directory() as directory:
            if directory is not None:
                self._hide(volume, place, directory, recorded)
        faults.point("csi.unpublish.removed")
        if recorded:
            self._records.unpublish(volume.id, place.path)
            faults.point("csi.unpublish.recorded")
            logger.debug("volume unpublished", volume_id=volume.id, target=place.path)

    def _staged(self, volume: Volume, capability: Capability, path: str) -> tuple[Staging, Place]:
        if not path:
            raise FailedPrecondition("staging_target_path is missing: this driver stages volumes first")
        place = self._roots.place(path, "staging_target_path")
        staging = self._records.staging(volume.id)
        if staging is None or staging.path != place.path:
            raise FailedPrecondition(f"volume {volume.id!r} is not staged at {path!r}")
        if staging.block != capability.block:
            how = "a device" if staging.block else "a filesystem"
            raise FailedPrecondition(f"volume {volume.id!r} is staged as {how}")
        return staging, place

    def _conflicts(self, wanted: Publication) -> bool:
        """Whether exactly this is recorded already (CSI, NodePublishVolume: the table of second calls)."""
        others = self._records.publications(wanted.volume_id)
        for other in others:
            if other.target == wanted.target:
                if other != wanted:
                    raise AlreadyExists(f"volume {wanted.volume_id!r} is published at {wanted.target!r} in another way")
                return True
        for other in others:
            if {wanted.mode, other.mode} != {AccessMode.SINGLE_NODE_MULTI_WRITER} and self._is_mount(other.target):
                raise FailedPrecondition(
                    f"volume {wanted.volume_id!r} is published at {other.target!r}, and access mode "
                    f"{min(wanted.mode, other.mode).name} allows one target only"
                )
        return False

    def _is_mount(self, target: str) -> bool:
        status = self._roots.place(target, "target_path").look()
        return bool(status and status.mount_root)

    def _show_directory(
        self, device: Device, source: Place, place: Place, wanted: Publication, attributes: int
    ) -> None:
        with _parent(place) as directory:
            status = _make_target(place, directory, block=False)
            if status.mount_root:
                if status.dev != device.rdev:
                    raise FailedPrecondition(f"another filesystem is mounted at {place.path!r}")
                if _shown_read_only(place, directory) == wanted.read_only:
                    return
                mounts.unmount(directory, place.name, place.path)  # what a killed call with other wishes left
            if wanted.read_only:
                attributes |= syscalls.MOUNT_ATTR_RDONLY
            with _parent(source) as above, source.opened(above) as mounted, place.opened(directory) as target:
                mounts.bind(mounted, target, attributes)
        faults.point("csi.publish.bound")

    def _show_device(self, device: Device, place: Place, wanted: Publication) -> None:
        with _parent(place) as directory:
            status = _make_target(place, directory, block=True)
            if status.mount_root:
                view = _view_of(status, device)
                if not stat.S_ISBLK(status.mode) or (status.rdev != device.rdev and view is None):
                    raise FailedPrecondition(f"something else is mounted at {place.path!r}")
                if wanted.read_only == (view is not None):
                    return
                self._take_down(place, directory, view)
            shown = device
            if wanted.read_only:
                shown = self._pool.devices.attach_view(device, _view_name(device))
                faults.point("csi.publish.view")
            try:
                node = os.open(shown.path, os.O_PATH | os.O_CLOEXEC)
                with _closing(node), place.opened(directory) as target:
                    mounts.bind(node, target)
            except BaseException:
                if shown != device:
                    self._pool.devices.detach(shown)
                raise
        faults.point("csi.publish.bound")

    def _hide(self, volume: Volume, place: Place, directory: int, recorded: bool) -> None:
        with self._pool.opened(volume.token) as image:
            device = self._pool.devices.find(image)
        while (status := place.status(directory)) is not None and status.mount_root:
            view = _view_of(status, device) if device else None
            on_device = status.rdev if stat.S_ISBLK(status.mode) else status.dev
            if device is None or (on_device != device.rdev and view is None):
                if recorded:
                    raise FailedPrecondition(f"something else than volume {volume.id!r} is mounted at {place.path!r}")
                return
            self._take_down(place, directory, view)
            faults.point("csi.unpublish.unmounted")
        _remove_target(place, directory, status)

    def _take_down(self, place: Place, directory: int, view: Device | None) -> None:
        mounts.unmount(directory, place.name, place.path)
        if view:
            faults.point("csi.unpublish.hidden")
            self._pool.devices.detach(view)


@contextlib.contextmanager
def _parent(place: Place) -> Iterator[int]:
    with place.directory() as directory:
        if directory is None:
            raise FailedPrecondition(f"the directory of {place.what} {place.text!r} does not exist")
        yield directory


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _make_target(place: Place, directory: int, *, block: bool) -> Status:
    """The directory or file to mount on; the caller of NodePublishVolume makes its parent, we make it."""
    status = place.status(directory)
    if status is None:
        if block:
            os.close(os.open(place.name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory))
        else:
            os.mkdir(place.name, 0o750, dir_fd=directory)
        faults.point("csi.publish.target")
        status = syscalls.statx(directory, place.name)
    fits = not stat.S_ISDIR(status.mode) if block else stat.S_ISDIR(status.mode)
    if not fits:
        raise InvalidArgument(f"target_path {place.text!r} is {'a directory' if block else 'no directory'}")
    return status


def _remove_target(place: Place, directory: int, status: Status | None) -> None:
    """Remove what we made: an empty directory, or an empty file. Anything else is somebody's."""
    if status is None:
        return
    try:
        if stat.S_ISDIR(status.mode):
            os.rmdir(place.name, dir_fd=directory)
        elif stat.S_ISREG(status.mode) and status.size == 0:
            os.unlink(place.name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FailedPrecondition(f"target_path {place.text!r} holds files that are not the volume's") from error
        if error.errno != errno.ENOENT:
            raise


def _shown_read_only(place: Place, directory: int) -> bool:
    with place.opened(directory) as fd:
        return bool(os.statvfs(f"/proc/self/fd/{fd}").f_flag & _ST_RDONLY)


def _view_name(device: Device) -> str:
    return f"{VIEW}{device.number}"


def _view_of(status: Status, device: Device) -> Device | None:
    """The read-only view of a device that is bound at a target, if that is what is there."""
    if not stat.S_ISBLK(status.mode) or status.rdev == device.rdev:
        return None
    try:
        node = os.readlink(f"/sys/dev/block/{os.major(status.rdev)}:{os.minor(status.rdev)}")
    except FileNotFoundError:
        return None
    name = os.path.basename(node)
    if not name.startswith("loop"):
        return None
    view = Device(int(name.removeprefix("loop")), status.rdev)
    shown = devices.shows(view)
    return view if shown and shown.rdev == device.rdev and shown.name == _view_name(device) else None
