"""Which image is attached to which loop device: never more than one device per image.

The kernel does not guard this: the same file can be attached twice, and two live superblocks on one image destroy
it. So before an image is attached it is looked up by device number and inode of its file. Three steps, cheapest
first: what this process attached itself (asked again of the kernel), whether anybody else has the file open at all,
and a look at every loop device of the machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from plugins.core.errors import FailedPrecondition, Internal, ResourceExhausted
from plugins.csi.host import mountinfo
from plugins.csi.pool import loop
from plugins.csi.pool.loop import LoopStatus

SECTOR = 4096
_ATTEMPTS = 256  # LOOP_CTL_GET_FREE hands the same number to everybody until one of them takes it
_BUSY_RETRY_S = 0.01
_BUSY_LIMIT_S = 1.0  # udev opens a device for some milliseconds whenever something about it changed
_F_SETSIG = 10  # fcntl(2); the fcntl module has no name for it

Key = tuple[int, int]
"""(st_dev, st_ino) of a backing file."""


@dataclass(frozen=True)
class Device:
    """A loop device. rdev: its number as os.stat shows it (st_rdev), the st_dev of a filesystem on it."""

    number: int
    rdev: int

    @property
    def path(self) -> str:
        """Its node."""
        return f"/dev/loop{self.number}"


class LoopDevices:
    """The loop devices of the images of one pool."""

    def __init__(self, *, direct_io: bool) -> None:
        self._flags = loop.DIRECT_IO if direct_io else 0
        self._known: dict[Key, Device] = {}
        self._guard = threading.Lock()  # for the dictionary only, never held during a system call

    def find(self, image_fd: int) -> Device | None:
        """The device that an image is attached to; image_fd must be open for writing."""
        key = key_of(image_fd)
        with self._guard:
            device = self._known.get(key)
        if device and _holds(device, key):
            return device
        if device is None and _nobody_else_has_open(image_fd):
            return None
        attached = (d for d, s in scan() if (s.device, s.inode) == key)
        return self._remember(key, next((d for d in attached if _holds(d, key)), None))

    def attach(self, image_fd: int, name: str) -> Device:
        """The device of an image, attached now unless it already is. Callers hold the volume's lock.

        Raises:
            ResourceExhausted: no loop device is to be had.
        """
        found = self.find(image_fd)
        if found:
            return found
        device = _attach(image_fd, self._flags, name)
        self._remember(key_of(image_fd), device)
        return device

    def attach_view(self, device: Device, name: str) -> Device:
        """A read-only device that shows another device's content.

        A read-only bind mount of a device node does not keep anybody from writing to the device. This does: the
        kernel fails every write request. The image itself still has one device only.
        """
        with opened(device, os.O_RDONLY) as fd:
            return _attach(fd, loop.READ_ONLY, name)

    def follow_size(self, device: Device) -> None:
        """Let a device, and every read-only view of it, have the size that its image has now."""
        for shown in (device, *(view for view, status in scan() if status.rdev == device.rdev)):
            with opened(shown, os.O_RDWR if shown == device else os.O_RDONLY) as fd:
                loop.follow_size(fd)

    def detach(self, device: Device, key: Key | None = None, *, wait: bool = True) -> None:
        """Let go of what the device shows, now, or not at all.

        Args:
            key: what it must show; a device that shows something else is left alone.
            wait: give those who only look at the device a second to let go of it.

        Raises:
            FailedPrecondition: the device is mounted or open somewhere, in any mount namespace, or its node is bound
                to a target: that would show the next volume that gets the device.
        """
        if mountinfo.shows_node(f"loop{device.number}"):
            raise FailedPrecondition(f"{device.path} is still shown at a target path")
        until = time.monotonic() + (_BUSY_LIMIT_S if wait else 0)
        while not _cleared(device, key):
            if time.monotonic() > until:
                raise FailedPrecondition(f"{device.path} is still mounted or open, perhaps in another mount namespace")
            time.sleep(_BUSY_RETRY_S)
        if key:
            self._remember(key, None)

    def _remember(self, key: Key, device: Device | None) -> Device | None:
        with self._guard:
            if device:
                self._known[key] = device
            else:
                self._known.pop(key, None)
        return device


class opened:
    """A descriptor of a loop device's node for the duration of a block."""

    def __init__(self, device: Device, flags: int) -> None:
        self._fd = os.open(device.path, flags | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def key_of(fd: int) -> Key:
    """What identifies a backing file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def scan() -> Iterator[tuple[Device, LoopStatus]]:
    """Every loop device of the machine that has something attached."""
    for entry in os.listdir("/sys/block"):
        if not entry.startswith("loop") or not os.path.exists(f"/sys/block/{entry}/loop"):
            continue
        try:
            fd = os.open(f"/dev/{entry}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT, errno.EBUSY):  # detached since
                continue
            raise
        try:
            found = _status(fd)
            if found:
                yield Device(int(entry.removeprefix("loop")), os.fstat(fd).st_rdev), found
        finally:
            os.close(fd)


def _status(fd: int) -> LoopStatus | None:
    try:
        return loop.status(fd)
    except OSError as error:
        if error.errno == errno.EIO:  # its file lies on a filesystem that has shut down: no image that anybody can open
            return None
        raise


def shows(device: Device) -> LoopStatus | None:
    """What a device has attached at this moment."""
    try:
        with opened(device, os.O_RDONLY) as fd:
            return loop.status(fd)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise


def _holds(device: Device, key: Key) -> bool:
    try:
        with opened(device, os.O_RDONLY) as fd:
            status = loop.status(fd)
            if status is None or (status.device, status.inode) != key:
                return False
            return not status.flags & loop.AUTOCLEAR or loop.take_back_autoclear(fd)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise


def _attach(backing_fd: int, flags: int, name: str) -> Device:
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Internal("/dev/loop-control cannot be opened: no loop devices on this node", detail=str(error)) from error
    try:
        for _ in range(_ATTEMPTS):
            number = loop.free_number(control)
            fd = os.open(f"/dev/loop{number}", (os.O_RDONLY if flags & loop.READ_ONLY else os.O_RDWR) | os.O_CLOEXEC)
            try:
                if loop.configure(fd, backing_fd, block_size=SECTOR, flags=flags, name=name):
                    return Device(number, os.fstat(fd).st_rdev)
            finally:
                os.close(fd)
    finally:
        os.close(control)
    raise ResourceExhausted("no free loop device: others took each one that the kernel offered")


def _cleared(device: Device, key: Key | None) -> bool:
    try:
        # O_EXCL is refused while the device is mounted in any namespace.
        fd = os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return True
        if error.errno == errno.EBUSY:
            return False
        raise
    try:
        status = loop.status(fd)
        if status is None or (key and (status.device, status.inode) != key):
            return True
        return loop.clear(fd)
    finally:
        os.close(fd)


def _nobody_else_has_open(image_fd: int) -> bool:
    """Whether ours is the only descriptor of this file on the machine, loop devices included.

    The kernel grants a write lease only then (fcntl(2), F_SETLEASE). "No" may have other reasons, so it only ever
    leads to the full look. If somebody opens the file during the lease, the signal must be one that nobody minds.
    """
    try:
        fcntl.fcntl(image_fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(image_fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    fcntl.fcntl(image_fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True
