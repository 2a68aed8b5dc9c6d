"""What a source says about one device of the kernel: plain values, taken at one moment, never changed afterwards.

Names follow sysfs and udev: a device is a folder below /sys/devices, a subsystem groups devices, the parents are the
folders above it that are devices themselves, and a device node in /dev is what a program opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Node:
    """A device node as the kernel announced it; kind is "c" or "b"."""

    path: str
    kind: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class KernelObject:
    """One folder below /sys/devices: a device, or one of its parents.

    Attributes and properties hold only what was asked for (`Wanted`); what is not there is not in the mapping.
    """

    sys_path: str
    subsystem: str = ""
    devtype: str = ""
    sys_name: str = ""
    driver: str = ""
    properties: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    attributes: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Device(KernelObject):
    """A device with what a program opens, what leads there, and what it hangs on.

    node: None for a device that has none (a bus, a network interface).
    problem: why the node cannot be used at this moment; empty if it can.
    links: other paths that udev made for the node.
    parents: nearest first.
    """

    node: Node | None = None
    problem: str = ""
    links: tuple[str, ...] = ()
    parents: tuple[KernelObject, ...] = ()

    def chain(self) -> Iterator[KernelObject]:
        """The device and its parents, nearest first."""
        yield self
        yield from self.parents


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a source has to look at. The less, the sooner it is done.

    subsystems: those of the devices; None for all.
    parents: subsystems whose changes matter because a rule looks at them as a parent; None for all.
    properties, attributes: names to read, of the devices and of their parents.
    """

    subsystems: frozenset[str] | None = None
    parents: frozenset[str] | None = frozenset()
    properties: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
