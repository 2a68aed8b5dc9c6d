"""Allocation: from the ids that the kubelet chose to what the container gets. Pure, over one snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugins.core.errors import FailedPrecondition, InvalidArgument
from plugins.device.hardware import Device, Node
from plugins.device.inventory import Snapshot, Unit

Check = Callable[[Node], str]


@dataclass(frozen=True)
class Grant:
    """What one container gets.

    nodes: device nodes, each once, at the same path as on the host.
    permissions: letters of r, w, m.
    env: tells the program inside which nodes are its own.
    """

    nodes: tuple[Node, ...]
    permissions: str
    env: tuple[str, str]


def plan(containers: Sequence[Sequence[str]], snapshot: Snapshot, check: Check) -> list[Grant]:
    """One grant for each container, or an error and nothing granted.

    Args:
        containers: ids of devices, by container.
        snapshot: the list of the resource.
        check: looks at a node now and says why it is not the device that was found; empty if it is.

    Raises:
        InvalidArgument: an id is not of this resource, or is there twice, or there is none.
        FailedPrecondition: a device cannot be used now.
    """
    taken: set[str] = set()
    return [_grant(ids, snapshot, check, taken) for ids in containers]


def _grant(ids: Sequence[str], snapshot: Snapshot, check: Check, taken: set[str]) -> Grant:
    name = snapshot.rule.full_name
    if not ids:
        raise InvalidArgument(f"{name}: a container asks for no device")
    nodes: dict[Node, None] = {}  # two shares of one device: its node once
    for unit_id in ids:
        if unit_id in taken:
            raise InvalidArgument(f"{name}: device {unit_id!r} is asked for twice")
        taken.add(unit_id)
        unit = snapshot.units.get(unit_id)
        if unit is None:
            raise InvalidArgument(f"{name}: there is no device {unit_id!r}")
        nodes[_usable(unit, name, check)] = None
    paths = ",".join(node.path for node in nodes)
    return Grant(tuple(nodes), snapshot.rule.permissions, (variable(snapshot.rule.name), paths))


def _usable(unit: Unit, resource: str, check: Check) -> Node:
    node = unit.device.node
    if node is None:
        raise FailedPrecondition(f"{resource}: device {unit.id!r} has no device node")
    problem = unit.problem or check(node)
    if problem:
        raise Unusable(f"{resource}: device {unit.id!r} cannot be used: {problem}", unit.device)
    return node


class Unusable(FailedPrecondition):
    """A device of the list that is not what was found any more."""

    def __init__(self, message: str, device: Device) -> None:
        super().__init__(message)
        self.device = device


def variable(resource: str) -> str:
    """The environment variable that tells a container the paths of its devices."""
    return "NODEPLUG_DEVICES_" + re.sub(r"[^A-Z0-9]", "_", resource.upper())
