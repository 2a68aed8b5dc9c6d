"""What there is to hand out: devices and rules become immutable lists, one per resource, with a version.

The source tells what changed; each change goes to the one resource that has the device, as a new snapshot that shares
everything else with the one before. Readers take one snapshot and never see half of a change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from plugins.core import log, metrics
from plugins.core.broadcast import Broadcast
from plugins.device import resources
from plugins.device.hardware import Device
from plugins.device.identity import Names, identify, numa_node
from plugins.device.resources import Rule

logger = log.get("device.inventory")

_devices = metrics.gauge("device_devices", "Devices by resource and state.", ("resource", "state"))
_CHATTY = 16  # changes at a time that get a line each; a larger batch gets one line in all

Delta = Mapping[str, "Unit | None"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that the kubelet counts: a device, or a share of one.

    problem: why it is unhealthy; empty if it is healthy.
    numa: NUMA node to tell; None for none.
    """

    id: str
    device: Device
    problem: str = ""
    numa: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The list of one resource at one moment.

    delta: what changed since the version before, None for "gone": whoever keeps something per unit can patch it.
    """

    rule: Rule
    version: int = 0
    units: Mapping[str, Unit] = field(default_factory=dict)
    delta: Delta = field(default_factory=dict)

    def patched(self, delta: Delta) -> Snapshot:
        """The next version."""
        units = dict(self.units)
        for unit_id, unit in delta.items():
            if unit is None:
                units.pop(unit_id, None)
            else:
                units[unit_id] = unit
        return Snapshot(self.rule, self.version + 1, units, delta)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A device that a rule has, and its units."""

    rule: Rule
    device: Device
    units: tuple[Unit, ...]


class Inventory:
    """The current lists. One source writes, any thread reads."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._guard = threading.Lock()
        self._names = Names()
        self._placed: dict[str, _Placed] = {}
        self._lists = {rule.name: Broadcast(Snapshot(rule)) for rule in rules}

    def snapshot(self, resource: str) -> Snapshot:
        """The newest list of a resource, by its short name."""
        return self._lists[resource].current()

    def changes(self, resource: str) -> Broadcast[Snapshot]:
        """Where the lists of a resource are published."""
        return self._lists[resource]

    def replace(self, devices: Iterable[Device]) -> None:
        """These are all devices that there are. What stayed the same keeps its units: nothing flaps."""
        found = {device.sys_path: device for device in sorted(devices, key=lambda d: d.sys_path)}
        with self._guard:
            gone: dict[str, Device | None] = dict.fromkeys(path for path in self._placed if path not in found)
            self._apply({**gone, **found})

    def apply(self, changes: Mapping[str, Device | None]) -> None:
        """These devices are new or changed, or gone (None)."""
        with self._guard:
            self._apply(changes)

    def close(self) -> None:
        """End every stream that watches a list."""
        for published in self._lists.values():
            published.close()

    def _apply(self, changes: Mapping[str, Device | None]) -> None:
        deltas: dict[str, dict[str, Unit | None]] = {}
        changed = {path: device for path, device in changes.items() if self._differs(path, device)}
        # What goes comes first: a device that was plugged in elsewhere meanwhile gets its id back.
        for sys_path, device in changed.items():
            before = self._placed.pop(sys_path, None)
            if before is not None:
                deltas.setdefault(before.rule.name, {}).update((unit.id, None) for unit in before.units)
            if device is None:
                self._names.remove(sys_path)
        for sys_path, device in changed.items():
            after = self._place(device) if device is not None else None
            if after is not None:
                self._placed[sys_path] = after
                deltas.setdefault(after.rule.name, {}).update((unit.id, unit) for unit in after.units)
        for name, delta in deltas.items():
            self._publish(name, delta)

    def _differs(self, sys_path: str, device: Device | None) -> bool:
        before = self._placed.get(sys_path)
        return before.device != device if before is not None else device is not None

    def _place(self, device: Device) -> _Placed | None:
        """The units of a device; None if no rule has it, or if it has no node that could be handed out."""
        rule = resources.first(self._rules, device) if device.node is not None else None
        if rule is None:
            self._names.remove(device.sys_path)
            return None
        base = self._names.add(device.sys_path, identify(device))
        ids = [base] if rule.shares == 1 else [f"{base}-s{number}" for number in range(rule.shares)]
        numa = numa_node(device) if rule.numa else None
        return _Placed(rule, device, tuple(Unit(unit_id, device, device.problem, numa) for unit_id in ids))

    def _publish(self, name: str, delta: Delta) -> None:
        before = self._lists[name].current()
        snapshot = before.patched(delta)
        self._lists[name].publish(snapshot)
        unhealthy = sum(1 for unit in snapshot.units.values() if unit.problem)
        _devices.set(len(snapshot.units) - unhealthy, resource=name, state="healthy")
        _devices.set(unhealthy, resource=name, state="unhealthy")
        _log(before, snapshot)


def _log(before: Snapshot, after: Snapshot) -> None:
    resource = after.rule.name
    if len(after.delta) > _CHATTY:
        logger.info("devices changed", resource=resource, changes=len(after.delta), devices=len(after.units))
        return
    for unit_id, unit in after.delta.items():
        known = before.units.get(unit_id)
        if unit is None:
            logger.info("device gone", resource=resource, id=unit_id)
        elif unit.problem and (known is None or known.problem != unit.problem):
            logger.warning("device cannot be used", resource=resource, id=unit_id, reason=unit.problem)
        elif not unit.problem and (known is None or known.problem):
            logger.info("device there", resource=resource, id=unit_id, node=unit.device.node and unit.device.node.path)
