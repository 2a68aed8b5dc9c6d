"""Loop devices by ioctl. Contract: loop(4), include/uapi/linux/loop.h.

LOOP_CONFIGURE (Linux 5.8) sets file, sector size, direct I/O and name in one step, so that nobody ever sees a device
that is half set up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

_SET_STATUS64 = 0x4C04
_GET_STATUS64 = 0x4C05
_CLR_FD = 0x4C01
_SET_CAPACITY = 0x4C07
_CONFIGURE = 0x4C0A
_CTL_GET_FREE = 0x4C82

_INFO = struct.Struct("=5Q4I64s64s32s2Q")  # struct loop_info64
_CONFIG = struct.Struct(f"=2I{_INFO.size}s64x")  # struct loop_config

READ_ONLY = 1
AUTOCLEAR = 4
DIRECT_IO = 16


@dataclass(frozen=True)
class LoopStatus:
    """What LOOP_GET_STATUS64 says.

    device, inode: of the backing file (st_dev, st_ino). rdev: where the backing file is itself a block device.
    """

    number: int
    device: int
    inode: int
    rdev: int
    flags: int
    name: str


def free_number(control_fd: int) -> int:
    """The number of a device that was free a moment ago: another caller may get the same."""
    return int(fcntl.ioctl(control_fd, _CTL_GET_FREE))


def configure(loop_fd: int, image_fd: int, *, block_size: int, flags: int, name: str) -> bool:
    """Attach a file to a device. False: somebody else has just taken the device.

    Args:
        block_size: sector size in bytes.
        name: up to 63 bytes, kept by the kernel for whoever asks.
    """
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name.encode()[:63], b"", b"", 0, 0)
    try:
        fcntl.ioctl(loop_fd, _CONFIGURE, _CONFIG.pack(image_fd, block_size, info))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def status(loop_fd: int) -> LoopStatus | None:
    """What is attached; None where nothing is, or where it is going away."""
    buffer = bytearray(_INFO.size)
    try:
        fcntl.ioctl(loop_fd, _GET_STATUS64, buffer)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    device, inode, rdev, _, _, number, _, _, flags, name, *_ = _INFO.unpack(buffer)
    text = name.partition(b"\0")[0].decode("utf-8", "replace")
    return LoopStatus(number, _device(device), inode, _device(rdev), flags, text)


def follow_size(loop_fd: int) -> None:
    """Let a device have the size that its backing file has now."""
    fcntl.ioctl(loop_fd, _SET_CAPACITY)


def clear(loop_fd: int) -> bool:
    """Detach when the last descriptor is closed. False: others hold the device open, and it stays attached.

    The kernel says "success" in both cases and would detach the device at some later time, under whoever uses it
    then ("autoclear"). So the outcome is looked at, and the flag is taken back.
    """
    try:
        fcntl.ioctl(loop_fd, _CLR_FD)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise
    return not take_back_autoclear(loop_fd)


def take_back_autoclear(loop_fd: int) -> bool:
    """Let a device stay attached when its last descriptor is closed. False: nothing is attached."""
    buffer = bytearray(_INFO.size)
    try:
        fcntl.ioctl(loop_fd, _GET_STATUS64, buffer)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    fields = list(_INFO.unpack(buffer))
    fields[8] &= ~AUTOCLEAR
    fcntl.ioctl(loop_fd, _SET_STATUS64, _INFO.pack(*fields))
    return True


def _device(huge: int) -> int:
    """The kernel's 64-bit device number (huge_encode_dev) as os.stat shows it."""
    return os.makedev((huge & 0xFFF00) >> 8, (huge & 0xFF) | ((huge >> 12) & 0xFFF00))
