"""Devices as a source would describe them, and rules, with as few words as possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.device import resources
from plugins.device.config import DeviceConfig
from plugins.device.hardware import Device, KernelObject, Node
from plugins.device.resources import Rule


def device(
    name: str,
    *,
    subsystem: str = "misc",
    number: tuple[int, int] | None = (10, 1),
    path: str = "",
    parents: tuple[KernelObject, ...] = (),
    node: str = "",
    **more: Any,
) -> Device:
    """A device with a node /dev/NAME; number None: without a node."""
    kind = "b" if subsystem == "block" else "c"
    found = None if number is None else Node(node or f"/dev/{name}", kind, *number)
    place = path or f"/sys/devices/virtual/{subsystem}/{name}"
    return Device(sys_path=place, subsystem=subsystem, sys_name=name, node=found, parents=parents, **more)


def usb_tty(name: str, port: str, *, serial: str = "", vendor: str = "0403", product: str = "6001") -> Device:
    """A USB serial adapter in that port of the first controller, with the hub above it."""
    root = "/sys/devices/pci0000:00/0000:00:14.0"
    attributes = {"idVendor": vendor, "idProduct": product, "devpath": port}
    if serial:
        attributes["serial"] = serial
    hub = {"idVendor": "1d6b", "idProduct": "0002", "devpath": "0", "serial": "0000:00:14.0"}
    chain = (
        KernelObject(
            f"{root}/usb1/1-{port}/1-{port}:1.0/{name}", "usb-serial", "", name, attributes={"port_number": "0"}
        ),
        KernelObject(
            f"{root}/usb1/1-{port}/1-{port}:1.0", "usb", "usb_interface", attributes={"bInterfaceNumber": "00"}
        ),
        KernelObject(f"{root}/usb1/1-{port}", "usb", "usb_device", f"1-{port}", "usb", attributes=attributes),
        KernelObject(f"{root}/usb1", "usb", "usb_device", "usb1", "usb", attributes=hub),
        KernelObject(root, "pci", "", "0000:00:14.0", "xhci_hcd", attributes={"numa_node": "-1"}),
    )
    return device(name, subsystem="tty", number=(188, 0), path=f"{chain[0].sys_path}/tty/{name}", parents=chain)


def pci(address: str, numa: int = -1, **attributes: str) -> KernelObject:
    """A PCI function."""
    path = f"/sys/devices/pci0000:00/{address}"
    return KernelObject(path, "pci", "", address, attributes={"numa_node": str(numa), **attributes})


def rule(name: str = "it", *, select: list[dict[str, Any]] | None = None, **more: Any) -> Rule:
    """One rule; without select it has every misc device."""
    (made,) = rules({"name": name, "select": select or [{"subsystem": "misc"}], **more})
    return made


def rules(*tables: Mapping[str, Any], **settings: Any) -> tuple[Rule, ...]:
    """The rules of a configuration with these resource tables."""
    return resources.read(DeviceConfig(resources=tuple(dict(table) for table in tables), **settings))
