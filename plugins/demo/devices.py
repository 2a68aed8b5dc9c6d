"""The device part: devices of this very machine, one allocated and opened."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from plugins.demo.world import World
from plugins.lab.devicemanager import Allocation
from plugins.lab.errors import LabError
from plugins.lab.processes import Process

PART = "devices"
_DOMAIN = "nodeplug.internal"
_KVM_GET_API_VERSION = 0xAE00  # linux/kvm.h


@dataclass(frozen=True)
class Kind:
    """A resource that this machine may have. select: a rule of `nodeplug device`, in TOML."""

    name: str
    select: str
    shares: int = 1
    style: str = "kubelet"


KINDS = (
    Kind("kvm", '{ subsystem = "misc", name = "kvm" }', shares=10),
    Kind("gpu", '{ subsystem = "drm", name = "renderD*" }'),
    Kind("accelerator", '{ subsystem = "accel" }'),
    Kind("camera", '{ subsystem = "video4linux" }'),
    Kind("usb-serial", '{ subsystem = "tty", name = ["ttyUSB*", "ttyACM*"] }'),
    Kind("tpm", '{ subsystem = "tpmrm" }'),
    Kind("fuse", '{ subsystem = "misc", name = "fuse" }', shares=10),
    Kind("tun", '{ subsystem = "misc", name = "tun" }', shares=10),
    Kind("random", '{ subsystem = "mem", name = "urandom" }', shares=10, style="watcher"),
)


class DevicePart:
    """Find out what is there, see the kubelet count it, get one, open it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._config = world.root / "device.toml"
        self._config.write_text("\n".join(map(_rule, KINDS)))
        self.process: Process = world.supervisor.daemon(
            "device", kubelet_dir=world.kubelet.root, state_dir=world.root / "device", config=self._config
        )

    def run(self) -> None:
        """All steps; raises StepFailed."""
        found = self._listed()
        self._registered(found)
        self._opened([kind for kind in KINDS if kind.name in found])

    def _listed(self) -> dict[str, list[str]]:
        """Resource -> ids of its healthy devices, by a look of its own at this machine."""
        with self._world.report.step(PART, "list this machine's devices") as step:
            rows = json.loads(self._world.tool("device", "list", "--config", str(self._config), "--output", "json"))
            found: dict[str, list[str]] = {}
            nodes = []
            for row in rows:
                if row["health"] == "Healthy":
                    found.setdefault(row["resource"].removeprefix(f"{_DOMAIN}/"), []).append(row["id"])
                    nodes.append(row["node"])
            nodes = sorted(set(nodes))
            if not nodes:
                raise LabError("this machine shows no device that the demo knows")
            step.result = f"{len(nodes)}: {', '.join(nodes[:6])}{', ...' if len(nodes) > 6 else ''}"
            step.facts = {"nodes": nodes}
            return found

    def _registered(self, found: dict[str, list[str]]) -> None:
        with self._world.report.step(PART, "the kubelet counts them") as step:
            devices = self._world.kubelet.devices

            def counted() -> dict[str, int] | None:
                amounts = {name: devices.amount(f"{_DOMAIN}/{name}") for name in found}
                if any(amounts[name] is None or amounts[name].allocatable < len(ids) for name, ids in found.items()):  # type: ignore[union-attr]
                    return None
                return {f"{_DOMAIN}/{name}": amount.allocatable for name, amount in amounts.items() if amount}

            counts = self._world.wait(self.process, counted)
            step.result = ", ".join(f"{name} {count}" for name, count in counts.items())
            step.facts = {"allocatable": counts}

    def _opened(self, kinds: list[Kind]) -> None:
        """The first one in our order that this user may open."""
        with self._world.report.step(PART, "allocate one and open it") as step:
            refused = []
            for kind in kinds:
                given = self._world.kubelet.devices.allocate(f"pod-{kind.name}", f"{_DOMAIN}/{kind.name}", 1)
                path = given.response.devices[0].host_path
                try:
                    proof = _open(kind, path)
                except OSError as error:
                    refused.append(f"{path}: {error.strerror}")
                    self._world.kubelet.devices.free(given.pod)
                    continue
                step.result = f"{given.devices[0]} -> {path}, {proof}"
                step.facts = _facts(given, path)
                return
            raise LabError(f"none of the devices could be opened: {'; '.join(refused)}")


def _rule(kind: Kind) -> str:
    return (
        f'[[resources]]\nname = "{kind.name}"\nshares = {kind.shares}\n'
        f'registration = "{kind.style}"\nselect = [{kind.select}]\n'
    )


def _open(kind: Kind, path: str) -> str:
    """Open a device as a container would, and say something that only the real one can answer."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        letter = "b" if stat.S_ISBLK(found.st_mode) else "c"
        numbers = f"opened, {letter} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        return f"{numbers}{_PROOFS[kind.name](fd)}" if kind.name in _PROOFS else numbers
    finally:
        os.close(fd)


_PROOFS: dict[str, Callable[[int], str]] = {
    "kvm": lambda fd: f", KVM API version {fcntl.ioctl(fd, _KVM_GET_API_VERSION)}",
    "random": lambda fd: f", read {os.read(fd, 8).hex()}",
}


def _facts(given: Allocation, path: str) -> dict[str, object]:
    return {"resource": given.resource, "device": given.devices[0], "path": path, "env": dict(given.response.envs)}
