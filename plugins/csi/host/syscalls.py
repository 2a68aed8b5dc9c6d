"""System calls that Python's os module has not got: openat2, statx and the mount API, each as a typed function.

Contracts: openat2(2), statx(2), umount2(2), open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2),
mount_setattr(2). The numbers of the calls made by syscall(2) are the same on every architecture that Linux added
after 2019 (arch/*/entry/syscalls "common" numbers 424 and up). Kernel 5.12 or newer has all of them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

OPEN_TREE_CLONE = 0x01
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
FSOPEN_CLOEXEC = 0x01
FSMOUNT_CLOEXEC = 0x01
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
UMOUNT_NOFOLLOW = 0x08

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_STATX_BASIC_STATS = 0x07FF
_STATX_ATTR_MOUNT_ROOT = 0x2000
_STATX = struct.Struct("=IIQIIIHxxQQQQ")  # up to stx_attributes_mask; the device numbers follow at 128

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.syncfs.argtypes = (ctypes.c_int,)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Status:
    """What statx says of a file.

    mount_root: it is the root of a mount, the topmost one at its path.
    dev, rdev: device numbers as os.stat has them (st_dev, st_rdev).
    """

    mode: int
    ino: int
    size: int
    dev: int
    rdev: int
    mount_root: bool


def openat2(dir_fd: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open a path relative to dir_fd under the rules of `resolve`; returns a descriptor (close-on-exec)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _call(_SYS_OPENAT2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))


def statx(dir_fd: int, path: str = "") -> Status:
    """Status of a path relative to dir_fd, or of dir_fd itself; a symbolic link is not followed."""
    buffer = ctypes.create_string_buffer(256)
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (0 if path else AT_EMPTY_PATH)
    _check(_libc.statx(dir_fd, os.fsencode(path), flags, _STATX_BASIC_STATS, buffer))
    _, _, attributes, _, _, _, mode, ino, size, _, _ = _STATX.unpack_from(buffer)
    rdev_major, rdev_minor, dev_major, dev_minor = struct.unpack_from("=4I", buffer, 128)
    return Status(
        mode=mode,
        ino=ino,
        size=size,
        dev=os.makedev(dev_major, dev_minor),
        rdev=os.makedev(rdev_major, rdev_minor),
        mount_root=bool(attributes & _STATX_ATTR_MOUNT_ROOT),
    )


def umount(path: str) -> None:
    """Take away the topmost mount at a path (never lazily); the last component may not be a symbolic link."""
    _check(_libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW))


def syncfs(fd: int) -> None:
    """Write everything of the filesystem that fd lies on to its device."""
    _check(_libc.syncfs(fd))


def clone_mount(fd: int) -> int:
    """A detached copy of the mount at fd, rooted there: a bind mount that is not attached anywhere yet."""
    return _call(_SYS_OPEN_TREE, fd, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)


def attach_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount onto the file or directory that target_fd refers to."""
    _call(_SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", MOVE_MOUNT_EMPTY_PATHS)


def set_mount_attributes(mount_fd: int, attributes: int) -> None:
    """Switch attributes of one mount (MOUNT_ATTR_*) on."""
    clear = MOUNT_ATTR_ATIME if attributes & MOUNT_ATTR_ATIME else 0
    change = _MountAttr(attributes, clear, 0, 0)
    _call(_SYS_MOUNT_SETATTR, mount_fd, b"", AT_EMPTY_PATH, ctypes.byref(change), ctypes.sizeof(change))


def fsopen(filesystem: str) -> int:
    """A configuration context for a new mount of this filesystem type."""
    return _call(_SYS_FSOPEN, filesystem.encode(), FSOPEN_CLOEXEC)


def fsconfig_string(context_fd: int, key: str, value: str) -> None:
    """Set an option that has a value."""
    _call(_SYS_FSCONFIG, context_fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def fsconfig_flag(context_fd: int, key: str) -> None:
    """Set an option that has none."""
    _call(_SYS_FSCONFIG, context_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_create(context_fd: int) -> None:
    """Read the superblock with the options set so far."""
    _call(_SYS_FSCONFIG, context_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(context_fd: int, attributes: int) -> int:
    """A detached mount of a created context, with MOUNT_ATTR_* set."""
    return _call(_SYS_FSMOUNT, context_fd, FSMOUNT_CLOEXEC, attributes)


def _call(number: int, *args: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return _check(result)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
