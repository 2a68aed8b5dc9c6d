"""From a libudev device to plain values. Reads sysfs and, where it is there, the database of udev."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyudev

from plugins.core.errors import ConfigError
from plugins.device import identity, nodes
from plugins.device.hardware import Device, KernelObject, Node, Wanted

Chain = tuple[KernelObject, ...]


def context() -> pyudev.Context:
    """The library's handle. Raises ConfigError: libudev is not there."""
    try:
        return pyudev.Context()
    except ImportError as error:
        raise ConfigError(f"libudev is missing (package libudev1, systemd-libs or eudev): {error}") from error


class Reader:
    """Reads what is wanted and nothing else: every property and attribute costs time at a start."""

    def __init__(self, context: pyudev.Context, wanted: Wanted) -> None:
        self.context = context
        self._wanted = wanted

    def all(self) -> Iterator[Device]:
        """Every device of the wanted subsystems, as it is now."""
        if self._wanted.subsystems == frozenset():
            return  # no rule: without a match libudev would list everything
        enumerator = self.context.list_devices()
        for subsystem in sorted(self._wanted.subsystems or ()):
            enumerator.match_subsystem(subsystem)
        seen: dict[str, Chain] = {}  # neighbours share their parents
        for found in enumerator:
            yield self._device(found, seen)

    def one(self, sys_path: str) -> Device | None:
        """The device at that path as it is now; None if it is gone."""
        try:
            found = pyudev.Devices.from_sys_path(self.context, sys_path)
        except pyudev.DeviceNotFoundError:
            return None
        return self._device(found, {})

    def _device(self, found: pyudev.Device, seen: dict[str, Chain]) -> Device:
        node = _node(found)
        return Device(
            **self._common(found),
            tags=frozenset(found.tags),
            node=node,
            problem=nodes.problem(node) if node is not None else "",
            links=tuple(sorted(found.device_links)),
            parents=self._chain(found.parent, seen),
        )

    def _chain(self, parent: pyudev.Device | None, seen: dict[str, Chain]) -> Chain:
        if parent is None:
            return ()
        path = parent.sys_path
        if path not in seen:
            seen[path] = (KernelObject(**self._common(parent)), *self._chain(parent.parent, seen))
        return seen[path]

    def _common(self, found: pyudev.Device) -> dict[str, Any]:
        subsystem = found.subsystem or ""
        attributes = self._wanted.attributes.union(identity.ATTRIBUTES.get(subsystem, ()))
        return {
            "sys_path": found.sys_path,
            "subsystem": subsystem,
            "devtype": found.device_type or "",
            "sys_name": found.sys_name,
            "driver": found.driver or "",
            "properties": _present((n, found.properties.get(n)) for n in self._wanted.properties),
            "attributes": _present((n, found.attributes.get(n)) for n in attributes),
        }


def _present(pairs: Iterator[tuple[str, str | bytes | None]]) -> dict[str, str]:
    return {name: os.fsdecode(value) for name, value in pairs if value is not None}


def _node(found: pyudev.Device) -> Node | None:
    path, number = found.device_node, found.device_number
    if not path or not number:
        return None
    kind = "b" if found.subsystem == "block" else "c"
    return Node(path, kind, os.major(number), os.minor(number))
