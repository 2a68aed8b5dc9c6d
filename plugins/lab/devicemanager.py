"""The kubelet's device manager: what the node offers, and who gets which device."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.lab import allocation, checkpoint
from plugins.lab.deviceclient import DeviceClient
from plugins.lab.devicestate import Amount, DeviceInfo, DeviceState, Held
from plugins.lab.errors import AdmissionError
from plugins.lab.journal import Journal
from plugins.lab.registrar import SOCKET, Registrar
from plugins.lab.timings import KubeletTimings


@dataclass(frozen=True)
class Allocation:
    """What a container was given: device ids, and the plugin's reply (device nodes, mounts, environment, CDI names)."""

    pod: str
    container: str
    resource: str
    devices: tuple[str, ...]
    response: pb.ContainerAllocateResponse


class DeviceManager:
    """One life of the kubelet's device manager on <kubelet>/device-plugins. Its checkpoint outlives it."""

    def __init__(self, root: Path, journal: Journal, timings: KubeletTimings) -> None:
        self._folder = root / "device-plugins"
        self._journal = journal
        self._timings = timings
        self._shown: dict[str, Amount] = {}
        self._guard = threading.RLock()  # holds what is shown and the event about it together
        self._admission = threading.Lock()  # the kubelet admits one pod at a time
        self._due = threading.Condition()
        self._stopped = False
        self.state = DeviceState(timings.stop_grace, self._publish)
        self.handler = Registrar(self._folder, self.state, journal, timings, self._save)
        self._expiry = threading.Thread(target=self._expire, name="resource expiry", daemon=True)

    def start(self) -> None:
        """Read the checkpoint, remove all sockets, serve kubelet.sock."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        checkpoint.load(self._folder / checkpoint.NAME, self.state)
        self.handler.start()
        self._journal.record("kubelet_started", SOCKET, socket=self._folder / SOCKET, pid=os.getpid())
        self._publish()
        self._expiry.start()

    def vanish(self) -> None:
        """End like a killed process: see Registrar.vanish."""
        with self._due:
            self._stopped = True
            self._due.notify_all()
        self.handler.vanish()
        self._expiry.join()

    def amounts(self) -> dict[str, Amount]:
        """Capacity and allocatable, per resource, as the node's status would say at this moment."""
        return self._publish()

    def amount(self, resource: str) -> Amount | None:
        """Of one resource; None: it is not on the node."""
        return self.amounts().get(resource)

    def devices(self, resource: str) -> dict[str, DeviceInfo]:
        """The devices of a resource as last listed."""
        return self.state.devices(resource)

    def wait(
        self,
        resource: str,
        *,
        capacity: int | None = None,
        allocatable: int | None = None,
        absent: bool = False,
        timeout: float,
    ) -> Amount | None:
        """Wait until a resource has these amounts, or (absent) has left the node.

        Raises:
            Timeout: it did not come to that.
        """

        def fits() -> bool:
            amount = self.amount(resource)
            if amount is None or absent:
                return amount is None and absent
            return capacity in (None, amount.capacity) and allocatable in (None, amount.allocatable)

        wanted = "its absence" if absent else f"capacity={capacity} allocatable={allocatable}"
        self._journal.until(fits, timeout=timeout, what=f"{resource}: {wanted}, now {self.amount(resource)}")
        return self.amount(resource)

    def allocate(
        self, pod: str, resource: str, count: int, *, container: str = "main", affinity: frozenset[int] | None = None
    ) -> Allocation:
        """Admit a container that asks for devices, and prepare its start.

        A container that holds devices already (it restarts) keeps them: no second Allocate, only PreStartContainer.

        Raises:
            AdmissionError: too few, none healthy, or the plugin refused.
        """
        holder = (pod, container)
        with self._admission:
            held = self._held(holder, resource, count) or self._choose(holder, resource, count, affinity)
        client = self._client(resource)
        if client.options.pre_start_required:
            client.pre_start(held.devices, self._timings.pre_start)
        response = pb.ContainerAllocateResponse.FromString(held.response)
        self._journal.record("allocate", resource, pod=pod, devices=tuple(sorted(held.devices)))
        return Allocation(pod, container, resource, tuple(sorted(held.devices)), response)

    def free(self, pod: str) -> None:
        """The pod ended: its devices are free for others. The plugin is not told, ever."""
        self.state.free(pod)

    def _held(self, holder: tuple[str, str], resource: str, count: int) -> Held | None:
        healthy, held = self.state.healthy(resource), self.state.held(holder, resource)
        if held and len(held.devices) != count:
            raise AdmissionError(
                f"pod {holder[0]!r} container {holder[1]!r} changed request for resource {resource!r} "
                f"from {len(held.devices)} to {count}"
            )
        if healthy is None:
            raise AdmissionError(f"cannot allocate unregistered device {resource}")
        if not healthy:
            raise AdmissionError(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        if held and not held.devices <= healthy:
            raise AdmissionError(
                f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            )
        return held

    def _choose(self, holder: tuple[str, str], resource: str, count: int, affinity: frozenset[int] | None) -> Held:
        client = self._client(resource)

        def prefer(available: frozenset[str], must: frozenset[str], size: int) -> frozenset[str]:
            asks = client.options.get_preferred_allocation_available
            return client.preferred(available, must, size) if asks else frozenset()

        free = (self.state.healthy(resource) or frozenset()) - self.state.in_use(resource)
        chosen = allocation.choose(resource, count, free, self.state.devices(resource), affinity, prefer)
        self.state.reserve(resource, chosen)
        try:
            response = client.allocate(chosen)
        except AdmissionError:
            self.state.unreserve(resource, chosen)
            raise
        held = Held(chosen, response.SerializeToString())
        self.state.hold(holder, resource, held)
        self._save()
        return held

    def _client(self, resource: str) -> DeviceClient:
        client = self.handler.endpoint(resource)
        if client is None:
            raise AdmissionError(f"endpoint {resource} has been stopped")
        return client

    def _save(self) -> None:
        with self._guard:
            if not self._stopped:
                checkpoint.save(self._folder / checkpoint.NAME, self.state)

    def _publish(self) -> dict[str, Amount]:
        """Record what changed since it was last looked at."""
        with self._guard:
            now, before = self.state.amounts(), self._shown
            self._shown = now
            if not self._stopped:
                self._record(now, before)
        with self._due:
            self._due.notify_all()
        return now

    def _record(self, now: dict[str, Amount], before: dict[str, Amount]) -> None:
        for name, amount in now.items():
            was = before.get(name)
            if amount != was:
                self._journal.record(
                    "capacity", name, capacity=amount.capacity, allocatable=amount.allocatable, was=was
                )
        for name in before.keys() - now.keys():
            self._journal.record("resource_deleted", name)

    def _expire(self) -> None:
        """Look when a grace period is over, so that nobody has to ask for it to be seen."""
        while not self._stopped:
            with self._due:
                if not self._stopped:
                    self._due.wait(self.state.next_expiry())
            if not self._stopped:
                self._publish_expired()

    def _publish_expired(self) -> None:
        if self.state.next_expiry() == 0.0:
            self._publish()
