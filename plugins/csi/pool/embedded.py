"""A pool of our own, for nodes whose disk cannot share blocks: one XFS image, attached and mounted on a host path.

The mount must be on the host's path and not only in a container's namespace: the superblock lives on through the
volumes' loop devices when the namespace has gone. So the pool's loop device is looked for first, by device and inode
of the image, and mounted again; a second one is never made. `nouuid` is never used here: if the kernel says
"duplicate UUID", there is a second live superblock, and to go on would destroy the pool.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from plugins.core import command, faults, log
from plugins.core.errors import ConfigError, FailedPrecondition
from plugins.core.units import Bytes
from plugins.csi.host import mountinfo, mounts, syscalls
from plugins.csi.host.filesystems import XFS
from plugins.csi.pool.devices import Device, LoopDevices, key_of

logger = log.get("csi.pool")

MINIMUM = Bytes(512 * 1024 * 1024)
_INIT_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the same on every Linux
_INIT_MOUNT_NAMESPACE = "mnt:[4026531832]"  # MNT_NS_INIT_INO, on newer kernels
_MKFS_TIMEOUT_S = 300.0


def ensure(image: Path, size: int, path: Path) -> None:
    """Have the pool image mounted at `path`, made first if there is none.

    Args:
        size: bytes of a new image; it is sparse.

    Raises:
        ConfigError: the path cannot take the mount; says why.
    """
    if not image.exists():
        _make(image, size)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    devices = LoopDevices(direct_io=True)
    try:
        device = devices.attach(fd, "nodeplug-pool")
        try:
            _mount(device, image, path)
        except BaseException:
            with contextlib.suppress(FailedPrecondition):  # volumes of a dead namespace may hold it
                devices.detach(device, key_of(fd), wait=False)
            raise
    finally:
        os.close(fd)
    _warn_if_private(path)


def release(image: Path, path: Path) -> bool:
    """Unmount and detach the pool, if nothing uses it. False: something does, and it stays as it is."""
    devices = LoopDevices(direct_io=True)
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        device = devices.find(fd)
        if device is None:
            return True
        with _parent(path) as parent:
            status = syscalls.statx(parent, path.name)
            if status.mount_root and status.dev == device.rdev:
                mounts.unmount(parent, path.name, str(path), wait=False)
        devices.detach(device, key_of(fd), wait=False)
        return True
    except FailedPrecondition:
        return False
    finally:
        os.close(fd)


def _make(image: Path, size: int) -> None:
    """A new image, whole or not at all."""
    if size < MINIMUM:
        raise ConfigError(f"embedded_size is {Bytes(size)}; an embedded pool needs at least {MINIMUM}")
    image.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden = image.with_name(f".{image.name}.tmp")
    hidden.unlink(missing_ok=True)
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        command.run([*XFS.mkfs, "-m", "reflink=1", str(hidden)], timeout=_MKFS_TIMEOUT_S)
        faults.point("csi.pool.made")
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(hidden, image)
    with _parent(image) as parent:
        os.fsync(parent)
    logger.info("embedded pool made", image=str(image), size_bytes=size)


def _mount(device: Device, image: Path, path: Path) -> None:
    with _parent(path) as parent:
        status = syscalls.statx(parent, path.name)
    if status.mount_root and status.dev == device.rdev:
        return
    if status.mount_root or os.listdir(path):
        what = "another filesystem is mounted there" if status.mount_root else "the directory is not empty"
        raise ConfigError(f"the pool image {image} cannot be mounted at {path}: {what}")
    faults.point("csi.pool.attached")
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.mount(device.path, "xfs", mounts.MountOptions(_ATTRIBUTES, (("discard", None),)), target)
    except mounts.MountFailed as error:
        raise ConfigError(
            f"the pool image {image} ({device.path}) cannot be mounted at {path}: {error.message}", detail=error.detail
        ) from error
    finally:
        os.close(target)
    logger.info("embedded pool mounted", image=str(image), device=device.path, path=str(path))


_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC | syscalls.MOUNT_ATTR_NOATIME
)


def _warn_if_private(path: Path) -> None:
    """A mount that only this container's namespace sees works, until the container goes: say so."""
    if _in_host_mount_namespace():
        return
    above = mountinfo.containing(mountinfo.read(), path.resolve().parent)
    if above is None or not above.shared:
        logger.warning(
            "the pool is mounted in this process's mount namespace only: give the container the directory with mount "
            "propagation Bidirectional, so that the host and the next container see it",
            path=str(path),
        )


def _in_host_mount_namespace() -> bool:
    """By the namespace's number where the kernel gives it a fixed one, else by comparison with the host's init."""
    ours = os.readlink("/proc/self/ns/mnt")
    if ours == _INIT_MOUNT_NAMESPACE:
        return True
    try:
        return os.readlink("/proc/self/ns/pid") == _INIT_PID_NAMESPACE and os.readlink("/proc/1/ns/mnt") == ours
    except OSError:
        return False  # we may not look at init: taken for no, which costs a line in the log at most


class _parent(contextlib.AbstractContextManager[int]):
    """A descriptor of the directory that holds a path."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
