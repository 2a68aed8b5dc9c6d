"""A disk whose power can be cut: an XFS filesystem with the daemon's pool and state on it.

Two ways, which must agree. `shutdown` lets XFS stop at once without writing its log (XFS_IOC_GOINGDOWN, what the
kernel's own filesystem tests use). `image` keeps what the disk's image holds at one instant while its loop device
runs direct I/O (FICLONE), and mounts that instead of the original.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

from tools import leaks

WAYS = ("shutdown", "image")
_GOINGDOWN = 0x8004587D  # _IOR('X', 125, u32), fs/xfs/libxfs/xfs_fs.h
_NO_LOG_FLUSH = 2
_FICLONE = 0x40049409
_BUSY_S = 20.0  # a device is held open for moments by whoever looks at new devices


class Disk:
    """`root/state` on a filesystem of its own; `root/outer` holds its image, on a filesystem that shares blocks."""

    def __init__(self, root: Path, size: int = 3 << 30) -> None:
        self.path = root / "state"
        self._root = root
        self._outer = root / "outer"
        self._image = self._outer / "disk.img"
        self._kept = self._outer / "kept.img"
        for path in (self.path, self._outer):
            path.mkdir()
        _sparse(root / "outer.img", size + (2 << 30))
        _run("mkfs.xfs", "-q", root / "outer.img")
        _run("mount", "-o", "loop", root / "outer.img", self._outer)
        _sparse(self._image, size)
        self._device = self._attach()
        _run("mkfs.xfs", "-q", self._device)
        _run("mount", self._device, self.path)

    def cut(self, way: str) -> None:
        """The power fails now."""
        if way == "shutdown":
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(fd, _GOINGDOWN, struct.pack("=I", _NO_LOG_FLUSH))
            finally:
                os.close(fd)
            return
        source = os.open(self._image, os.O_RDONLY)
        target = os.open(self._kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.ioctl(target, _FICLONE, source)
        finally:
            os.close(source)
            os.close(target)

    def power_on(self) -> None:
        """What was on the disk when its power failed is mounted again. Nothing may be using it any more."""
        self._release()
        if self._kept.exists():
            self._kept.replace(self._image)
        self._device = self._attach()
        _run("mount", self._device, self.path)

    def close(self) -> None:
        """Nothing of it is left; also after a failure."""
        self._release()
        if str(self._outer) in leaks.mounts():
            _patiently("umount", self._outer)

    def _attach(self) -> str:
        argv = ("losetup", "--find", "--show", "--direct-io=on", "--sector-size", "4096", str(self._image))
        device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        assert Path(f"/sys/block/{Path(device).name}/loop/dio").read_text().strip() == "1", "no direct I/O"
        return device

    def _release(self) -> None:
        for path in sorted((p for p in leaks.mounts() if p.startswith(f"{self._root}/kubelet/")), reverse=True):
            _patiently("umount", path)
        found = leaks.loops()
        pools = (f"{self.path}/pool/", f"{self._outer}/pool/")
        volumes = {name for name, file in found.items() if file.startswith(pools)}
        views = {name for name, file in found.items() if file.removeprefix("/dev/") in volumes}
        for name in (*views, *volumes):
            _patiently("losetup", "--detach", f"/dev/{name}")
        if str(self.path) in leaks.mounts():
            _patiently("umount", self.path)
        for name in [name for name, file in leaks.loops().items() if file.startswith(f"{self._image}")]:
            _patiently("losetup", "--detach", f"/dev/{name}")
        until = time.monotonic() + _BUSY_S
        while any(file.startswith(f"{self._outer}/") for file in leaks.loops().values()):
            assert time.monotonic() < until, "the disk's device is still in use"
            time.sleep(0.01)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def _patiently(*argv: object) -> None:
    """Run a program until it succeeds."""
    until = time.monotonic() + _BUSY_S
    while True:
        done = subprocess.run([str(word) for word in argv], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert time.monotonic() < until, f"{argv}: {done.stderr}"
        time.sleep(0.02)
