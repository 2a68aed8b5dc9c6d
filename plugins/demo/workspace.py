"""The temporary folder of a demo, and the sweep that leaves nothing of it: no mount, no loop device, no file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from plugins.core import command
from plugins.core.errors import NodeplugError
from plugins.lab.paths import mounted_below

PREFIX = "np-demo-"
_LONGEST = 40  # bytes of the folder's path: the longest socket path below it must fit into 107
_LOOP_CLR_FD = 0x4C01  # linux/loop.h
_TIMEOUT = 30.0  # seconds for umount(8)
_SETTLE = 10.0  # seconds for the kernel to let go of a loop device after its last close


def make() -> Path:
    """A new folder for one run, below TMPDIR or, where that is too long for socket paths, below /tmp."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) + len(PREFIX) + 9 > _LONGEST:
        base = "/tmp"
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()


def sweep(root: Path) -> list[str]:
    """Take everything away that lies below root or is mounted or attached from there. May be repeated.

    Returns:
        What could not be removed, one line each; then the folder is left as it is.
    """
    loops = _loops(root)
    for loop in loops:
        _let_go(loop)  # one that is mounted goes with its last user
    problems = [line for point in reversed(mounted_below(root)) if (line := _unmount(point))]
    problems += [f"{loop} is still attached" for loop in _wait_until_gone(root)]
    left = mounted_below(root)
    if left:  # a removal would reach into what is mounted
        return [*problems, *(f"{point} is still mounted" for point in left)]
    shutil.rmtree(root, ignore_errors=True)
    return [*problems, f"{root} could not be removed"] if root.exists() else problems


def _loops(root: Path) -> list[Path]:
    """Loop devices whose image lies below root."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached meanwhile
            image = backing.read_text().rstrip("\n").removesuffix(" (deleted)")
            if Path(image).is_relative_to(root):
                found.append(Path("/dev") / backing.parts[3])
    return found


def _let_go(loop: Path) -> None:
    with contextlib.suppress(OSError):  # detached meanwhile
        fd = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _LOOP_CLR_FD)
        finally:
            os.close(fd)


def _unmount(point: Path) -> str:
    """Unmount; if somebody still uses it, at least take it out of sight. Returns a line about what went wrong."""
    try:
        command.run(["umount", str(point)], timeout=_TIMEOUT)
    except NodeplugError as error:
        with contextlib.suppress(NodeplugError):
            command.run(["umount", "--lazy", str(point)], timeout=_TIMEOUT)
        return f"{point}: {error.detail or error.message}"
    return ""


def _wait_until_gone(root: Path) -> list[Path]:
    """The kernel frees a loop device a moment after its last user has closed it."""
    deadline, pause = time.monotonic() + _SETTLE, threading.Event()
    while (left := _loops(root)) and time.monotonic() < deadline:
        pause.wait(0.02)
    return left
