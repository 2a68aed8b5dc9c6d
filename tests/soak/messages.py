"""Random requests for every method of CSI, made from the descriptors: from a seed, so that each can be made again.

Most fields get a value that could be right (an id of a volume that exists, a path that may be used), so that requests
get past the first check; the others get what no caller sends.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.soak.world import STAGINGS, World

METHODS: tuple[MethodDescriptor, ...] = tuple(
    method for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods
)
_OFTEN = {
    8: ("NodeStageVolume", "NodePublishVolume"),
    6: ("CreateVolume",),
    4: ("NodeUnpublishVolume", "NodeUnstageVolume", "CreateSnapshot"),
    3: ("DeleteVolume", "NodeExpandVolume", "ControllerExpandVolume"),
}
_WEIGHTS = {name: weight for weight, names in _OFTEN.items() for name in names}
_MIB = 1 << 20
_SIZES = (
    0,
    1,
    4095,
    4096,
    _MIB,
    16 * _MIB,
    16 * _MIB,
    20 * _MIB + 1,
    300 * _MIB,
    1 << 40,
    -1,
    -(1 << 63),
    (1 << 63) - 1,
)
_NUMBERS = (0, 0, 1, 2, 7, -1, 1 << 31, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
_FLAGS = (
    "noatime",
    "ro",
    "rw",
    "nodev",
    "noexec",
    "discard",
    "commit=5",
    "x=\0",
    "errors=panic",
    "loop",
    "",
    "bind,dev",
)
_TEXTS = (
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "//",
        "\0",
        "a\0b",
        "\n",
        "\r\n{}",
        "\x7f\x1b[2J",
        "%s%n",
        "${HOME}",
        "'; DROP TABLE volumes;",
    ),
    *(
        "-rf",
        "--help",
        "a/b",
        "../../x",
        "\u202egnp.exe",
        "\ufffe",
        "\U0001f4a3" * 40,
        "e\u0301" * 70,
        "x" * 127,
        "x" * 128,
    ),
    *(
        "x" * 129,
        "y" * 5000,
        "vol-",
        "snap-.",
        "group-..",
        "v1-",
        "v1-9999999999999999999",
        "v1--1",
        "v1-\u0661",
        "0x10",
    ),
    *("ext4", "xfs", "btrfs", "true", "-1", "1e9", "NaN"),
)
_KEYS = (
    *("consistency", "csi.storage.k8s.io/ephemeral", "csi.storage.k8s.io/pv/name", "csi.storage.k8s.io/fstype", "pool"),
    *("provisioning", "thick", "qos", "read_bps", "iops", "force", "replicas"),
)
_VALUES = ("true", "false", "crash", "filesystem", "thick", "thin", "default", "100Mi", "0", "1000", "max")
_TOPOLOGY = "topology.local.csi.nodeplug.internal/node"


class Generator:
    """Requests, one after the other: a half of them well meant, the others hostile in some of their values."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._strange = 0  # how many of a hundred values are hostile

    def method(self) -> MethodDescriptor:
        """The method to be called next."""
        weights = [_WEIGHTS.get(method.name, 1) for method in METHODS]
        return self._rng.choices(METHODS, weights)[0]

    def request(self, method: MethodDescriptor) -> Message:
        """A request of a method."""
        self._strange = self._rng.choice((0, 0, 0, 5, 12, 40))
        request = self._message(method.input_type)
        if not self._strange:
            self._mend(request)
        return request

    def _mend(self, request: Any) -> None:
        """Let the parts of a request fit together, so that it can be served if its volume is in the state for it."""
        names = {one.name for one, _ in request.ListFields()}
        if "volume_content_source" in names and self._rng.random() < 0.5:
            request.ClearField("volume_content_source")
        if "staging_target_path" in names and "volume_id" in names:
            request.staging_target_path = str(self._world.staging_of(request.volume_id))
        for path in names & {"target_path", "volume_path"} if "volume_id" in names else ():
            setattr(request, path, str(self._world.target_of(request.volume_id, self._rng.randrange(2))))
        capabilities = list(request.volume_capabilities) if "volume_capabilities" in names else []
        capabilities += [request.volume_capability] if "volume_capability" in names else []
        for capability in capabilities:
            capability.access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER
            capability.mount.ClearField("volume_mount_group")
            if "volume_id" in names and request.volume_id in self._world.raw:
                capability.block.SetInParent()
            else:
                capability.mount.fs_type = ""
                del capability.mount.mount_flags[1:]
        if "volume_capabilities" in names:
            del request.volume_capabilities[1:]
            if not self._rng.randrange(3):
                request.volume_capabilities[0].block.SetInParent()

    def _message(self, descriptor: Descriptor) -> Message:
        message: Message = message_factory.GetMessageClass(descriptor)()
        chosen = {self._rng.choice(oneof.fields).name for oneof in descriptor.oneofs}
        for one in descriptor.fields:
            if one.containing_oneof is not None and one.name not in chosen:
                continue
            if self._rng.random() < ((1 if not self._strange else 0.9) if _usual(one) else 0.12):
                self._fill(message, one)
        if self._strange and not self._rng.randrange(20):  # a field of a later version
            message.MergeFromString(b"\xf8\x3f\x01\xa2\x3f\x03abc")
        return message

    def _fill(self, message: Message, one: FieldDescriptor) -> None:
        kind = one.message_type
        if kind is not None and kind.GetOptions().map_entry:
            self._fill_map(getattr(message, one.name), kind)
        elif one.is_repeated:
            count = self._rng.choice((1, 1, 1, 2, 3)) if self._rng.randrange(200) else 300
            values = [self._value(one) for _ in range(count)]
            getattr(message, one.name).extend(values)
        elif kind is not None:
            getattr(message, one.name).CopyFrom(self._message(kind))
        else:
            setattr(message, one.name, self._value(one))

    def _fill_map(self, target: Any, entry: Descriptor) -> None:
        for _ in range(self._rng.choice((0, 0, 1, 1, 2))):
            if entry.containing_type and entry.containing_type.name == "Topology" and not self._odd():
                target[_TOPOLOGY] = self._world.node
            else:
                key = self._text() if self._odd() else self._rng.choice(_KEYS)
                target[key] = self._text() if self._odd() else self._rng.choice(_VALUES)

    def _value(self, one: FieldDescriptor) -> Any:
        if one.message_type is not None:
            return self._message(one.message_type)
        if one.type == FieldDescriptor.TYPE_ENUM:
            known = [value.number for value in one.enum_type.values] if one.enum_type else []
            return self._rng.choice((99, -5, 1 << 30)) if self._odd() else self._rng.choice(known)
        if one.type == FieldDescriptor.TYPE_STRING:
            return self._string(one.name)
        if one.type == FieldDescriptor.TYPE_BYTES:
            return self._rng.randbytes(self._rng.choice((0, 1, 4000)))
        if one.type == FieldDescriptor.TYPE_BOOL:
            return self._rng.random() < 0.3
        return self._number(one)

    def _number(self, one: FieldDescriptor) -> int:
        small = one.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32)
        low, high = (-(1 << 31), (1 << 31) - 1) if small else (-(1 << 63), (1 << 63) - 1)
        if one.name.endswith("bytes"):
            number = self._rng.choice(_SIZES if self._odd() else (16 * _MIB, 16 * _MIB, 32 * _MIB, 300 * _MIB))
        else:
            number = self._rng.choice(_NUMBERS) if self._odd() else self._rng.randrange(8)
        return max(low, min(high, number))

    def _string(self, name: str) -> str:
        if self._odd():
            return self._path() if name.endswith("path") else self._text()
        world, rng = self._world, self._rng
        match name:
            case "volume_id" | "source_volume_id" | "source_volume_ids":
                return rng.choice(world.volumes or ["vol-0123456789abcdef0123." + world.node])
            case "snapshot_id" | "snapshot_ids" | "base_snapshot_id" | "target_snapshot_id":
                return rng.choice(world.snapshots or ["snap-0123456789abcdef0123." + world.node])
            case "group_snapshot_id":
                return rng.choice(world.groups or ["group-0123456789abcdef0123." + world.node])
            case "name":
                return f"name-{rng.randrange(24)}"
            case "staging_target_path":
                return str(world.staging(rng.randrange(STAGINGS)))
            case "target_path" | "volume_path":
                return str(
                    world.target(rng.randrange(2 * STAGINGS))
                    if rng.random() < 0.8
                    else world.staging(rng.randrange(STAGINGS))
                )
            case "fs_type":
                return rng.choice(("", "", "ext4", "ext4", "xfs"))
            case "mount_flags":
                return rng.choice(_FLAGS[:6])
            case "node_id":
                return world.node
            case "starting_token":
                return rng.choice(("", *world.tokens[-4:]))
            case _:
                return self._text()

    def _text(self) -> str:
        world, rng = self._world, self._rng
        ids = [*world.volumes, *world.snapshots, *world.groups]
        if ids and not rng.randrange(4):
            text = rng.choice(ids)
            return rng.choice(
                (text, text.upper(), text + "x", text[:-1], "snap" + text[3:], text.split(".")[0] + ".other")
            )
        return rng.choice(_TEXTS + _FLAGS)

    def _path(self) -> str:
        world, rng = self._world, self._rng
        good = str(world.target(rng.randrange(4)))
        name = Path(good).name
        return rng.choice(
            (
                *(good + "/", good + "//", good + "/..", good + "/../../../outside", good + "\0", good + "/sub/deep"),
                *(str(world.outside), f"{world.outside}/file", f"{world.root}/kubelet/pods/link/x"),
                *(f"{world.root}/kubelet/pods/link", f"{world.root}/kubelet/pods", f"{world.root}/kubelet"),
                *(
                    name,
                    "./" + name,
                    good + "/" + "n" * 256,
                    good + "/d" * 2100,
                    f"{good}\n",
                    "/",
                    "",
                    "/proc/self/fd/1",
                ),
                *(f"{world.root}/kubelet/pods/file", f"{world.root}/kubelet/pods/file/x", f"{world.root}/state/pool"),
            )
        )

    def _odd(self) -> bool:
        return self._rng.randrange(100) < self._strange


def _usual(one: FieldDescriptor) -> bool:
    """Whether callers nearly always send a field."""
    return one.name not in _RARE


_RARE = frozenset(
    {
        *("secrets", "mutable_parameters", "volume_content_source", "parameters", "readonly", "limit_bytes"),
        *("volume_mount_group", "publish_context", "volume_context", "accessibility_requirements", "max_entries"),
        *("starting_token", "preferred", "starting_offset", "max_results", "accessible_topology"),
    }
)
