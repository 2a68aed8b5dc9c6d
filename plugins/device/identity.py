"""Names for devices that survive: the same after a replug, a reboot, and a change of the kernel's numbering.

A name is made of what the hardware says. From the device upwards, the first that has a serial number or world-wide
name (the hub above it has one too: that is not this device's), or is plugged in somewhere (USB port chain, PCI
address), is the anchor; for devices that are not hardware (kvm, tun, loop) it is the name of their node. What lies
between the anchor and the device (interface, port, partition) follows. The kernel's running numbers (ttyUSB3, card1)
are never part of it.

The result is a DNS label, so that it may serve as a device name in DRA and CDI too.
Only sysfs is read: the udev database may not be there (containers) and comes later than the kernel's event.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plugins.core import log
from plugins.device.hardware import Device, KernelObject

MAX_LENGTH = 56
"""Characters of a device id. With the number of a share ("-s9999") it stays a DNS label of 63 (RFC 1123)."""

logger = log.get("device.identity")

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "usb": ("idVendor", "idProduct", "serial", "devpath", "bInterfaceNumber"),
    "usb-serial": ("port_number",),
    "pci": ("numa_node",),
    "nvme": ("serial",),
    "block": ("wwid", "serial", "nsid", "partition"),
    "scsi": ("wwid",),
    "mmc": ("cid",),
    "infiniband": ("node_guid",),
    "video4linux": ("index",),
}
"""What has to be read of each subsystem, besides what the rules ask for."""

_UNIQUE = ("wwid", "cid", "node_guid")  # world-wide names: enough on their own
_FACTS = (
    ("bInterfaceNumber", "if"),
    ("port_number", "port"),
    ("nsid", "ns"),
    ("partition", "part"),
    ("index", "index"),
)
_HASH = 10  # hexadecimal digits: 40 bits, a collision among 50,000 devices has odds of 1 in 900


@dataclass(frozen=True, slots=True)
class Identity:
    """name: what the device is called if no other device has the same; place: what tells it from one that has."""

    name: str
    place: str


def identify(device: Device) -> Identity:
    """The identity of a device: a pure function of what the source read."""
    chain = list(device.chain())
    for depth, found in enumerate(chain):
        serial, place = _serial(found), _place(chain[depth:])
        if serial is not None:  # of two that share it the place tells which is which
            return Identity(
                _label(*serial, *_suffix(chain[:depth])), "/".join(_nearest_place(chain)) or device.sys_path
            )
        if place is not None:
            return Identity(_label(*place, *_suffix(chain[:depth])), device.sys_path)
    if device.node is not None:
        return Identity(_label(device.node.path.removeprefix("/dev/")), device.sys_path)
    return Identity(_label(device.subsystem, device.sys_name), device.sys_path)


def numa_node(device: Device) -> int | None:
    """The NUMA node of the nearest parent that has one; None where the machine does not say."""
    for found in device.chain():
        text = found.attributes.get("numa_node", "")
        if text.isdecimal():
            return int(text)
    return None


class Names:
    """Gives each device its id, and sees to it that no two have the same.

    Where a second device claims a name, the first keeps it (a pod may hold it) and the second gets the name with a
    short hash of its place. Both are remembered: after a replug each has its own id again. Devices that are given in
    the order of their sysfs paths get the same ids at each start.
    """

    def __init__(self) -> None:
        self._holder: dict[str, str] = {}  # id -> sysfs path, of devices that are present
        self._given: dict[str, str] = {}  # sysfs path -> id, likewise
        self._reserved: dict[str, Identity] = {}  # ids of devices that ever met a namesake
        self._identity: dict[str, Identity] = {}

    def add(self, sys_path: str, identity: Identity) -> str:
        """The id of a device that is present; the same as long as its identity does not change."""
        if self._identity.get(sys_path) == identity:
            return self._given[sys_path]
        self.remove(sys_path)
        given = next(wish for wish in _wishes(sys_path, identity) if self._free(wish, identity))
        if given != identity.name:
            self._remember(identity, given)
        self._holder[given] = sys_path
        self._given[sys_path] = given
        self._identity[sys_path] = identity
        return given

    def remove(self, sys_path: str) -> None:
        """The device is gone; its id is free, unless a namesake was ever seen."""
        given = self._given.pop(sys_path, None)
        if given is not None:
            del self._holder[given], self._identity[sys_path]

    def _free(self, name: str, identity: Identity) -> bool:
        return name not in self._holder and self._reserved.get(name, identity) == identity

    def _remember(self, identity: Identity, given: str) -> None:
        first = self._holder.get(identity.name)
        if first is not None:
            self._reserved[identity.name] = self._identity[first]
        if given not in self._reserved:
            self._reserved[given] = identity
            logger.warning(
                "two devices have the same identity; the second gets a longer id",
                identity=identity.name,
                id=given,
                place=identity.place,
                first=first,
            )


def _wishes(sys_path: str, identity: Identity) -> Iterator[str]:
    yield identity.name
    yield _hashed(identity.name, identity.place)
    yield _hashed(identity.name, sys_path)
    for number in itertools.count(1):  # each of the three is reserved for another device that was here before
        yield _hashed(identity.name, f"{sys_path}#{number}")


def _serial(found: KernelObject) -> tuple[str, ...] | None:
    """The texts that identify this piece of hardware wherever it is plugged in."""
    values = found.attributes
    for name in _UNIQUE:
        if _telling(values.get(name, "")):
            return (found.subsystem, values[name])
    serial = values.get("serial", "")
    if not _telling(serial):
        return None
    if found.subsystem == "usb":
        return ("usb", values.get("idVendor", ""), values.get("idProduct", ""), serial)
    return (found.subsystem, serial)


def _telling(value: str) -> bool:
    """Whether a serial number says anything: not empty, not all of one character (0000, FFFF, ....)."""
    return len(set(value.strip().replace(":", "").replace("-", ""))) > 1


def _place(chain: Sequence[KernelObject]) -> tuple[str, ...] | None:
    """The name of the place where the first of the chain is plugged in, if that is how it is attached."""
    found = chain[0]
    if found.subsystem == "usb" and found.attributes.get("devpath"):
        return (
            "usb",
            next((parent.sys_name for parent in chain if parent.subsystem == "pci"), ""),
            found.attributes["devpath"],
        )
    return ("pci", found.sys_name) if found.subsystem == "pci" else None


def _nearest_place(chain: Sequence[KernelObject]) -> tuple[str, ...]:
    places = (_place(chain[depth:]) for depth in range(len(chain)))
    return next((place for place in places if place is not None), ())


def _suffix(below: Sequence[KernelObject]) -> list[str]:
    """What tells the device from others of the same anchor: the facts on the way, and what kind of node it is."""
    facts = [
        prefix + found.attributes[name].strip()
        for found in reversed(below)
        for name, prefix in _FACTS
        if found.attributes.get(name, "").strip()
    ]
    return [*facts, _kind(below[0])] if below else facts


def _kind(device: KernelObject) -> str:
    """What sort of node it is. The letters of a disk (sda, vdb) count like numbers, so its subsystem stands for it."""
    letters = re.sub(r"[^A-Za-z].*", "", device.sys_name)
    return device.subsystem if device.subsystem == "block" or not letters else letters


def _label(*parts: str) -> str:
    text = "-".join(parts).lower()
    label = re.sub(r"[^a-z0-9]+", "-", text).strip("-") or "device"
    return label if len(label) <= MAX_LENGTH else _hashed(label, text)


def _hashed(name: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH]
    return f"{name[: MAX_LENGTH - _HASH - 1].rstrip('-')}-{digest}"
