"""What the domain speaks of beside volumes: snapshots, and groups of them that hold one moment. Plain values."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plugins.core.errors import InvalidArgument

_OTHERS = "csi.storage.k8s.io/"  # begins the parameters that the sidecars add for themselves


class Consistency(enum.Enum):
    """What a cut promises.

    CRASH: what a power cut at that moment would have left; everything that was written before is in it.
    FILESYSTEM: the filesystem was frozen: no operation of it is half done, and ext4 has nothing to recover.
    """

    CRASH = "crash"
    FILESYSTEM = "filesystem"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as recorded.

    seq: order of creation, never used twice.
    token: names the image.
    source_id: the volume; it may have gone since.
    size: bytes; what a volume made from it needs at least.
    held: bytes that it may keep from being freed: what its image had allocated at the cut.
    fs: what the volume was formatted with; "" for a raw one.
    created: nanoseconds since the epoch. All that was written and acknowledged before is in it.
    group_id: the group that it belongs to; "" for none.
    """

    seq: int
    id: str
    token: str
    name: str
    source_id: str
    size: int
    held: int
    fs: str
    created: int
    group_id: str = ""


@dataclass(frozen=True)
class Group:
    """A group snapshot: members cut at one moment (`created`, nanoseconds since the epoch)."""

    id: str
    name: str
    created: int
    members: tuple[Snapshot, ...]

    @property
    def source_ids(self) -> frozenset[str]:
        """The volumes that it was made of."""
        return frozenset(member.source_id for member in self.members)


@dataclass(frozen=True)
class NewSnapshot:
    """What CreateSnapshot asks for. requisite: topologies of which one must do."""

    name: str
    source_id: str
    consistency: Consistency
    requisite: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class NewGroup:
    """What CreateVolumeGroupSnapshot asks for."""

    name: str
    source_ids: tuple[str, ...]
    consistency: Consistency


def consistency(parameters: Mapping[str, str], default: Consistency) -> Consistency:
    """What the parameters of a snapshot class say.

    Raises:
        InvalidArgument: a parameter or a value that is not known.
    """
    unknown = sorted(key for key in parameters if key != "consistency" and not key.startswith(_OTHERS))
    if unknown:
        raise InvalidArgument(f"parameter {unknown[0][:64]!r} is not known; snapshot classes have 'consistency' only")
    text = parameters.get("consistency", default.value)
    try:
        return Consistency(text)
    except ValueError:
        known = " or ".join(kind.value for kind in Consistency)
        raise InvalidArgument(f"parameter consistency is {text[:64]!r}; it can be {known}") from None
