"""The device manager's books: devices, their health, who holds which. No gRPC in here.

Capacity and allocatable are computed as the kubelet computes them for the node's status: a healthy device counts in
both, an unhealthy one in capacity only, an absent one in neither. A resource whose plugin went stays, all unhealthy,
until the grace period is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Holder = tuple[str, str]
"""Pod and container."""


class Amount(NamedTuple):
    """What the node's status says of a resource."""

    capacity: int
    allocatable: int


@dataclass(frozen=True)
class DeviceInfo:
    """A device as its plugin last described it. nodes: NUMA nodes; empty where it has no topology."""

    id: str
    healthy: bool
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Held:
    """What a container holds of a resource. response: the plugin's serialized ContainerAllocateResponse."""

    devices: frozenset[str]
    response: bytes


@dataclass
class _Resource:
    devices: dict[str, DeviceInfo] = field(default_factory=dict)
    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    stopped: float | None = None  # monotonic; when its plugin went


class DeviceState:
    """All resources of the node. Every method is atomic; `changed` is called, unlocked, after each change."""

    def __init__(self, grace: float, changed: Callable[[], object] = lambda: None) -> None:
        """grace: seconds a resource stays on the node after its plugin went."""
        self._grace = grace
        self._changed = changed
        self._resources: dict[str, _Resource] = {}
        self._held: dict[Holder, dict[str, Held]] = {}
        self._reserved: dict[str, set[str]] = {}  # chosen, and the plugin's answer is still out
        self._guard = threading.RLock()

    def load(self, resources: Iterable[str], held: Mapping[Holder, Mapping[str, Held]]) -> None:
        """What a checkpoint remembers: names at capacity 0, their plugins gone, and every holder's devices."""
        with self._guard:
            for name in resources:
                self._resources[name] = _Resource(stopped=time.monotonic())
            self._held = {holder: dict(of) for holder, of in held.items()}

    def connected(self, name: str) -> None:
        """A plugin is there; its devices follow with its first list."""
        with self._guard:
            resource = self._resources.get(name)
            if resource:
                resource.stopped = None

    def replace(self, name: str, devices: Iterable[DeviceInfo]) -> None:
        """A message of ListAndWatch: this is the whole list now."""
        with self._guard:
            resource = self._resources.setdefault(name, _Resource())
            resource.devices = {d.id: d for d in devices}
            resource.healthy = {d.id for d in resource.devices.values() if d.healthy}
            resource.unhealthy = resource.devices.keys() - resource.healthy
        self._changed()

    def disconnected(self, name: str) -> None:
        """Its plugin went: every device is unhealthy, and the grace period begins."""
        with self._guard:
            resource = self._resources.get(name)
            if resource is None:
                return
            resource.unhealthy |= resource.healthy
            resource.healthy = set()
            resource.stopped = time.monotonic()
        self._changed()

    def amounts(self) -> dict[str, Amount]:
        """Capacity and allocatable of every resource; those whose grace period is over leave by this call."""
        with self._guard:
            limit = time.monotonic() - self._grace
            for name in [n for n, r in self._resources.items() if r.stopped is not None and r.stopped <= limit]:
                del self._resources[name]
            return {n: Amount(len(r.healthy) + len(r.unhealthy), len(r.healthy)) for n, r in self._resources.items()}

    def next_expiry(self) -> float | None:
        """Seconds until the next resource leaves; None: none is about to."""
        with self._guard:
            stops = [r.stopped for r in self._resources.values() if r.stopped is not None]
        return max(0.0, min(stops) + self._grace - time.monotonic()) if stops else None

    def known(self, name: str) -> bool:
        """Whether the resource is on the node, or somebody still holds some of it."""
        with self._guard:
            return name in self._resources or any(name in of for of in self._held.values())

    def devices(self, name: str) -> dict[str, DeviceInfo]:
        """The last list of a resource."""
        with self._guard:
            return dict(self._resources[name].devices) if name in self._resources else {}

    def healthy(self, name: str) -> frozenset[str] | None:
        """The healthy devices; None: the resource is not registered."""
        with self._guard:
            return frozenset(self._resources[name].healthy) if name in self._resources else None

    def in_use(self, name: str) -> frozenset[str]:
        """Devices that somebody holds or is about to."""
        with self._guard:
            taken = set(self._reserved.get(name, ()))
            for of in self._held.values():
                taken |= of[name].devices if name in of else frozenset()
            return frozenset(taken)

    def reserve(self, name: str, devices: Iterable[str]) -> None:
        """Keep devices from others until `hold` or `unreserve`."""
        with self._guard:
            self._reserved.setdefault(name, set()).update(devices)

    def unreserve(self, name: str, devices: Iterable[str]) -> None:
        """The plugin refused."""
        with self._guard:
            self._reserved.get(name, set()).difference_update(devices)

    def hold(self, holder: Holder, name: str, held: Held) -> None:
        """The plugin agreed: from now on these devices are the container's."""
        with self._guard:
            self._held.setdefault(holder, {})[name] = held
            self.unreserve(name, held.devices)

    def held(self, holder: Holder, name: str) -> Held | None:
        """What a container holds of a resource."""
        with self._guard:
            return self._held.get(holder, {}).get(name)

    def free(self, pod: str) -> None:
        """A pod ended. Its plugin gets no call."""
        with self._guard:
            for holder in [h for h in self._held if h[0] == pod]:
                del self._held[holder]

    def snapshot(self) -> tuple[dict[str, list[str]], dict[Holder, dict[str, Held]]]:
        """For the checkpoint: healthy devices per resource, and who holds what."""
        with self._guard:
            registered = {name: sorted(r.healthy) for name, r in self._resources.items()}
            return registered, {holder: dict(of) for holder, of in self._held.items()}
