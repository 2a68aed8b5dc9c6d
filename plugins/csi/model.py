"""What the domain speaks of: volumes, capabilities, and where a volume is used. Plain values, no gRPC."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plugins.core.errors import InvalidArgument
from plugins.csi.host import filesystems, mountoptions


class AccessMode(enum.IntEnum):
    """VolumeCapability.AccessMode.Mode of CSI 1.13, by number."""

    UNKNOWN = 0
    SINGLE_NODE_WRITER = 1
    SINGLE_NODE_READER_ONLY = 2
    MULTI_NODE_READER_ONLY = 3
    MULTI_NODE_SINGLE_WRITER = 4
    MULTI_NODE_MULTI_WRITER = 5
    SINGLE_NODE_SINGLE_WRITER = 6
    SINGLE_NODE_MULTI_WRITER = 7


_ON_ONE_NODE = frozenset(
    {
        AccessMode.SINGLE_NODE_WRITER,
        AccessMode.SINGLE_NODE_READER_ONLY,
        AccessMode.SINGLE_NODE_SINGLE_WRITER,
        AccessMode.SINGLE_NODE_MULTI_WRITER,
    }
)


PROVISIONING = "provisioning"
"""The parameter of a storage class that says whether volumes take their space when it is written, or at once."""


def is_thick(parameters: Mapping[str, str]) -> bool:
    """Whether a volume of these parameters has all of its space from the beginning.

    Raises:
        InvalidArgument: the parameter says neither thin nor thick.
    """
    said = parameters.get(PROVISIONING, "thin")
    if said not in ("thin", "thick"):
        raise InvalidArgument(f"{PROVISIONING} is {said[:64]!r}; it can be thin or thick")
    return said == "thick"


@dataclass(frozen=True)
class Capability:
    """How a caller wants to use a volume.

    block: as a raw device; else as a directory with a filesystem.
    fs: filesystem type; "" leaves the choice to us.
    flags: mount options as they came.
    """

    block: bool
    mode: AccessMode
    fs: str = ""
    flags: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        """Whether the mode itself forbids writing."""
        return self.mode is AccessMode.SINGLE_NODE_READER_ONLY

    def objection(self) -> str:
        """Why no volume of this driver can be used like this; "" if one can."""
        if self.mode not in _ON_ONE_NODE:
            return f"access mode {self.mode.name} is not supported: a volume lies on one node"
        if self.fs and self.fs not in filesystems.KNOWN:
            return f"filesystem {self.fs[:64]!r} is not supported; choose one of {', '.join(filesystems.KNOWN)}"
        try:
            if not self.block:
                mountoptions.parse(self.flags, self.fs or "ext4")
        except InvalidArgument as error:
            return error.message
        return ""


@dataclass(frozen=True)
class Volume:
    """A volume as recorded.

    seq: order of creation, never used twice.
    token: names the image.
    size: bytes.
    fs: what it is formatted with; "" for a raw volume.
    fs_given: whether the caller asked for that filesystem by name.
    block: whether it was made for use as a raw device (too).
    used: whether it was ever staged, so that somebody may have written to it.
    created: seconds since the epoch.
    source: id of the snapshot or volume that it began as a copy of; "" if it began empty.
    mutable: parameters that may change after it was made.
    """

    seq: int
    id: str
    token: str
    name: str
    size: int
    fs: str
    fs_given: bool
    block: bool
    used: bool
    parameters: Mapping[str, str]
    created: float
    source: str = ""
    mutable: Mapping[str, str] = field(default_factory=dict)

    @property
    def thick(self) -> bool:
        """Whether all of its space is its own from the beginning."""
        return is_thick(self.parameters)

    def objection(self, capability: Capability) -> str:
        """Why this volume cannot be used like this; "" if it can."""
        general = capability.objection()
        if general:
            return general
        if capability.block:
            return "" if self.block else "the volume was made for use as a filesystem"
        if not self.fs:
            return "the volume was made for use as a raw block device"
        if capability.fs in ("", self.fs):
            return ""
        if self.fs_given or self.used or self.block:
            return f"the volume is formatted with {self.fs}, not {capability.fs}"
        minimum = filesystems.KNOWN[capability.fs].minimum
        return "" if self.size >= minimum else f"the volume has {self.size} bytes; {capability.fs} needs {int(minimum)}"


@dataclass(frozen=True)
class Staging:
    """A volume made ready on this node. path: the staging directory."""

    volume_id: str
    path: str
    block: bool
    fs: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Publication:
    """A volume shown at a target path."""

    volume_id: str
    target: str
    read_only: bool
    mode: AccessMode
    flags: tuple[str, ...]


@dataclass(frozen=True)
class NewVolume:
    """What CreateVolume asks for.

    required, limit: bytes, 0 for none.
    requisite: topologies of which one must do.
    source: id of the snapshot or volume whose content it begins with; "" for none.
    source_is_snapshot: which of the two.
    mutable: parameters that may change later.
    """

    name: str
    required: int
    limit: int
    capabilities: tuple[Capability, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    requisite: Sequence[Mapping[str, str]] = ()
    source: str = ""
    source_is_snapshot: bool = False
    mutable: Mapping[str, str] = field(default_factory=dict)
