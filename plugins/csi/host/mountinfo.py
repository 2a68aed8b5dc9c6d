"""What is mounted, from /proc/self/mountinfo. Contract: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. Paths are as this process sees them; `propagation` is the optional fields."""

    id: int
    parent: int
    dev: int
    root: str
    path: str
    options: frozenset[str]
    propagation: tuple[str, ...]
    filesystem: str
    source: str
    super_options: frozenset[str]

    @property
    def shared(self) -> bool:
        """Whether what is mounted below it is seen by a peer in another mount namespace."""
        return any(field.startswith("shared:") for field in self.propagation)


def parse(lines: Iterable[bytes]) -> Iterator[Mount]:
    """The mounts of a mountinfo text.

    Raises:
        ValueError: a line that is none.
    """
    for line in lines:
        if line.strip():
            yield _parse_line(line.rstrip(b"\n"))


def read(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """All mounts of this process's mount namespace, in the order in which they were made at each path."""
    with open(path, "rb") as file:
        return list(parse(file.read().split(b"\n")))


def of_device(mounts: Iterable[Mount], dev: int) -> list[Mount]:
    """The mounts whose filesystem lies on this device."""
    return [mount for mount in mounts if mount.dev == dev]


def shows_node(node: str) -> bool:
    """Whether a device node of /dev ("loop3") is bound somewhere else: such a mount does not hold the device.

    A search in the text instead of a parse, since it is asked while volumes are let go of.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        return f" /{node} ".encode() in file.read()


def containing(mounts: Iterable[Mount], path: Path) -> Mount | None:
    """The mount on which an absolute path lies: the last one made at the longest prefix of it."""
    best: Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.path) and (best is None or len(mount.path) >= len(best.path)):
            best = mount
    return best


def _parse_line(line: bytes) -> Mount:
    before, separator, after = line.partition(b" - ")
    fields, rest = before.split(b" "), after.split(b" ")
    if not separator or len(fields) < 6 or len(rest) < 3:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    major, _, minor = fields[2].partition(b":")
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        dev=os.makedev(int(major), int(minor)),
        root=_text(fields[3]),
        path=_text(fields[4]),
        options=frozenset(_text(fields[5]).split(",")),
        propagation=tuple(_text(f) for f in fields[6:]),
        filesystem=_text(rest[0]),
        source=_text(rest[1]),
        super_options=frozenset(_text(rest[2]).split(",")),
    )


def _text(field: bytes) -> str:
    """A field with its escapes (space, tab, newline and backslash as three octal digits) undone."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match.group(1), 8),)), field))
