"""Limits of I/O per block device, by cgroup v2. Contract: Documentation/admin-guide/cgroup-v2.rst, "io.max".

A limit stands on the cgroup above all pods and counts what all of them do to one device together. cgroup v1 cannot do
this: its limits are not inherited by the containers' cgroups, and buffered writes go past them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PARENTS = ("kubepods.slice", "kubepods")  # what the kubelet calls it with the systemd and the cgroupfs driver
_UNLIMITED = "max"


@dataclass(frozen=True)
class Limit:
    """What may be done to a device in a second: bytes and operations; 0: no limit."""

    read_bytes: int = 0
    write_bytes: int = 0
    read_operations: int = 0
    write_operations: int = 0

    def text(self) -> str:
        """As io.max has it."""
        pairs = {
            "rbps": self.read_bytes,
            "wbps": self.write_bytes,
            "riops": self.read_operations,
            "wiops": self.write_operations,
        }
        return " ".join(f"{name}={value or _UNLIMITED}" for name, value in pairs.items())


class IoMax:
    """The io.max file of one cgroup."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, rdev: int, limit: Limit) -> None:
        """Limit a device (its number as os.stat has it). One write, so all of it holds or nothing."""
        if limit == Limit() and not self._mentions(rdev):
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, f"{_name(rdev)} {limit.text()}\n".encode())
        finally:
            os.close(fd)

    def _mentions(self, rdev: int) -> bool:
        with open(self.path, "rb") as file:
            return any(line.startswith(f"{_name(rdev)} ".encode()) for line in file)


def find(root: Path, parent: str | None) -> tuple[IoMax | None, str]:
    """The io.max above all pods; or why there is none.

    Args:
        root: where cgroup v2 is mounted.
        parent: the cgroup above all pods, relative to that; None: what the kubelet makes.
    """
    try:
        controllers = (root / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return None, f"{root} is no cgroup v2 hierarchy, and limits of cgroup v1 do not reach the containers of pods"
    if "io" not in controllers:
        return None, f"the io controller is not available in the cgroup v2 hierarchy {root}"
    for name in (parent,) if parent else _PARENTS:
        file = root / name / "io.max"
        if file.exists():
            return IoMax(file), ""
    tried = parent or " or ".join(_PARENTS)
    return None, f"there is no io.max in {tried} below {root}: is the io controller enabled there?"


def _name(rdev: int) -> str:
    return f"{os.major(rdev)}:{os.minor(rdev)}"
