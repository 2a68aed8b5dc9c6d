"""The configuration of `nodeplug device`: which devices of the node become which resource."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from plugins.core.config import DaemonConfig
from plugins.core.units import Bytes

Text = str | int
Texts = Text | tuple[Text, ...]


class Condition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"is_": "is", "not_": "not"}
):
    """A condition on one value. Every key that is given has to hold; a text or a list stands for `glob`."""

    is_: Annotated[Texts | None, Meta(description="This text, or one of these, literally.")] = None
    glob: Annotated[Texts | None, Meta(description="One of these patterns: * ? [abc] [!abc].")] = None
    regex: Annotated[Texts | None, Meta(description="One of these regular expressions, over the whole value.")] = None
    not_: Annotated[Texts | None, Meta(description="None of these patterns; holds where there is no value.")] = None
    min: Annotated[float | None, Meta(description="A number (decimal or 0x...) not below this.")] = None
    max: Annotated[float | None, Meta(description="A number (decimal or 0x...) not above this.")] = None
    exists: Annotated[bool | None, Meta(description="Whether there is a value at all.")] = None


Value = Texts | Condition


class ParentSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions that one and the same parent of a device meets."""

    devtype: Value | None = None
    name: Value | None = None
    driver: Value | None = None
    properties: dict[str, Value] = {}
    attributes: dict[str, Value] = {}


class Selector(ParentSelector, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions on a device; every one has to hold."""

    subsystem: Value | None = None
    node: Value | None = None
    tags: Value | None = None
    parent: dict[str, ParentSelector] = {}


Style = Literal["kubelet", "watcher"]


class Resource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One resource: a name, and the devices that count for it."""

    name: str
    select: tuple[Selector, ...] = ()
    exclude: tuple[Selector, ...] = ()
    shares: Annotated[int, Meta(ge=1, le=10_000)] = 1
    permissions: Annotated[str, Meta(pattern="^(?!.*(.).*\\1)[rwm]{1,3}$")] = "rw"
    preference: Literal["packed", "spread"] = "packed"
    numa: bool = True
    registration: Style | None = None


_EXAMPLES = """\
The resources of this node. The first one that selects a device has it. For example:
#
#   [[resources]]
#   name = "kvm"                    # pods ask for nodeplug.internal/kvm
#   shares = 100                    # each device may be given out so many times at once (1)
#   permissions = "rw"              # r read, w write, m mknod ("rw")
#   preference = "packed"           # devices of one NUMA node together, or "spread" ("packed")
#   numa = true                     # tell the kubelet the NUMA node (true)
#   registration = "kubelet"        # overrides the daemon's own
#   [[resources.select]]            # a device counts if all conditions of one of these hold
#   subsystem = "misc"
#   name = "kvm"
#
#   [[resources]]
#   name = "fuse"
#   shares = 100
#   select = [{ subsystem = "misc", name = "fuse" }]
#
#   [[resources]]
#   name = "tun"
#   shares = 100
#   select = [{ node = "/dev/net/tun", subsystem = "misc" }]
#
#   [[resources]]
#   name = "loop"
#   select = [{ subsystem = "block", name = "loop*" }]
#   exclude = [{ name = ["loop0", "loop1"] }]
#
#   [[resources]]
#   name = "ftdi"                   # USB serial adapters, each by its serial number
#   [[resources.select]]
#   subsystem = "tty"
#   parent.usb.attributes = { idVendor = "0403", serial = { exists = true, not = "0000*" } }
#
# Conditions: subsystem, devtype, name, node, driver, tags, properties.X, attributes.X, and the same but for
# subsystem, node and tags of a parent: parent.SUBSYSTEM.X ("*" is any subsystem). A value is a pattern (* ? [abc]),
# a list of patterns, or a table of: is, glob, regex, not, min, max, exists."""


class DeviceConfig(DaemonConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `nodeplug device` can be told."""

    domain: Annotated[str, Meta(description="What stands before resource names; a domain that you own.")] = (
        "nodeplug.internal"
    )
    registration: Annotated[
        Style,
        Meta(
            description='How a resource is registered: "kubelet" calls kubelet.sock, "watcher" lets the kubelet find a '
            "socket in plugins_registry."
        ),
    ] = "kubelet"
    receive_buffer: Annotated[
        Bytes, Meta(description="Buffer for kernel device events. More than net.core.rmem_max needs CAP_NET_ADMIN.")
    ] = Bytes(128 << 20)
    # Plain tables here: `resources.read` checks them, and its errors name the resource instead of a number.
    resources: Annotated[tuple[dict[str, Any], ...] | None, Meta(description=_EXAMPLES)] = None
