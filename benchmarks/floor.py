"""The system calls without which no volume on a reflink pool becomes ready, and nothing else.

The list is fixed, so that later figures compare with earlier ones:
  block      a sparse file made durable; one durable note; a loop device; a bind mount
  ext4, xfs  a formatted template cloned and made durable; one durable note; a loop device; a mount; a bind mount
Around them a benchmark makes one bare RPC each for Create, Stage and Publish. Steps that only nodeplug takes (locks, a
database, checks) never enter here. The code is independent of plugins/: a floor must not share the faults it measures.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

KINDS = ("block", "ext4", "xfs")
SIZE = 1 << 30  # bytes of a volume
SECTOR = 4096  # a cloned file gives 4096-byte sectors under direct I/O whatever is asked, so everything uses them

# ioctl numbers and layouts: linux/loop.h, linux/fs.h; flags: linux/mount.h.
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CLR_FD = 0x4C01
_LO_FLAGS_DIRECT_IO = 16
_FICLONE = 0x40049409
_MS_BIND = 4096
_LOOP_CONFIG = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 8Q")

_libc = ctypes.CDLL(None, use_errno=True)


def sparse(path: Path, size: int) -> None:
    """An image of that size that survives power loss: written beside, then renamed."""
    with _renamed(path) as target:
        os.ftruncate(target, size)


def clone(template: Path, path: Path) -> None:
    """An image that shares the template's extents and survives power loss."""
    source = os.open(template, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _renamed(path) as target:
            fcntl.ioctl(target, _FICLONE, source)
    finally:
        os.close(source)


def note(path: Path) -> None:
    """One durable record, of the size of a line about a volume."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(target, b"x" * 200)
        os.fsync(target)
    finally:
        os.close(target)
    _sync_folder(path.parent)


def attach(image: Path) -> str:
    """A loop device with direct I/O over the image; returns its path."""
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _config(backing))
                return name
            except OSError as error:
                if error.errno != errno.EBUSY:  # somebody else was faster with that number
                    raise
            finally:
                os.close(device)
    finally:
        os.close(control)
        os.close(backing)


def detach(device: str) -> None:
    """Release a loop device."""
    opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(opened, _LOOP_CLR_FD)
    finally:
        os.close(opened)


def mount(source: str, target: Path, kind: str) -> None:
    """Mount a filesystem without options."""
    _mount(source, target, kind.encode(), 0)


def bind(source: str, target: Path) -> None:
    """Make source visible at target too."""
    _mount(source, target, None, _MS_BIND)


def unmount(target: Path) -> None:
    """Unmount what is at target."""
    if _libc.umount2(os.fsencode(target), 0) != 0:
        raise _failure(target)


class Floor:
    """One volume's way to ready and back, by hand, in a folder of a mounted reflink pool."""

    def __init__(self, pool: Path, outside: Path, templates: dict[str, Path]) -> None:
        """
        Args:
            pool: a folder on the pool, for the image and the note.
            outside: a folder elsewhere, for the mount points; they are made here, since that is no part of the floor.
            templates: formatted images on the pool, by filesystem.
        """
        self._image = pool / "volume.img"
        self._note = pool / "note"
        self._templates = templates
        self._staged, self._folder, self._file = outside / "staged", outside / "folder", outside / "file"
        self._staged.mkdir()
        self._folder.mkdir()
        self._file.touch()
        self._device = ""

    def create(self, kind: str) -> None:
        """The image and the note about it."""
        if kind == "block":
            sparse(self._image, SIZE)
        else:
            clone(self._templates[kind], self._image)
        note(self._note)

    def stage(self, kind: str) -> None:
        """The loop device, and for a filesystem its mount."""
        self._device = attach(self._image)
        if kind != "block":
            mount(self._device, self._staged, kind)

    def publish(self, kind: str) -> None:
        """The bind mount into the pod's folder."""
        bind(self._device, self._file) if kind == "block" else bind(str(self._staged), self._folder)

    def undo(self, kind: str) -> None:
        """Everything back."""
        if kind == "block":
            unmount(self._file)
        else:
            unmount(self._folder)
            unmount(self._staged)
        detach(self._device)
        self._image.unlink()
        self._note.unlink()


def _config(backing: int) -> bytes:
    info = (0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_DIRECT_IO, b"", b"", b"", 0, 0)
    return _LOOP_CONFIG.pack(backing, SECTOR, *info, *[0] * 8)


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[int]:
    """A new file that takes its name when it is complete, durably."""
    temporary = path.with_suffix(".tmp")
    target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield target
        os.fsync(target)
    finally:
        os.close(target)
    os.rename(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _mount(source: str, target: Path, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind, ctypes.c_ulong(flags), None) != 0:
        raise _failure(target)


def _failure(path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))
