"""Requests into the domain's own values, or InvalidArgument. With the adapters the only modules that see protobuf."""

from __future__ import annotations

from collections.abc import Iterable

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.errors import InvalidArgument
from plugins.csi.model import AccessMode, Capability, NewVolume
from plugins.csi.volumes import check_id, check_name

_EPHEMERAL = "csi.storage.k8s.io/ephemeral"
_MODES = {mode.value for mode in AccessMode} - {AccessMode.UNKNOWN.value}


def new_volume(request: pb.CreateVolumeRequest) -> NewVolume:
    """What a CreateVolume asks for.

    Raises:
        InvalidArgument: a field is missing, hostile, or asks for what this driver has not got.
    """
    check_name(request.name)
    requirements = request.accessibility_requirements
    source, source_is_snapshot = _source(request)
    return NewVolume(
        name=request.name,
        required=request.capacity_range.required_bytes,
        limit=request.capacity_range.limit_bytes,
        capabilities=capabilities(request.volume_capabilities),
        parameters=dict(request.parameters),
        requisite=[dict(topology.segments) for topology in requirements.requisite],
        source=source,
        source_is_snapshot=source_is_snapshot,
        mutable=dict(request.mutable_parameters),
    )


def capabilities(messages: Iterable[pb.VolumeCapability]) -> tuple[Capability, ...]:
    """A non-empty list of capabilities."""
    found = tuple(_capability(message) for message in messages)
    if not found:
        raise InvalidArgument("volume_capabilities is missing")
    return found


def capability(
    request: pb.NodeStageVolumeRequest | pb.NodePublishVolumeRequest | pb.ControllerPublishVolumeRequest,
) -> Capability:
    """The capability of a call that uses a volume in one way."""
    if not request.HasField("volume_capability"):
        raise InvalidArgument("volume_capability is missing")
    if request.volume_context.get(_EPHEMERAL) == "true":
        raise InvalidArgument("inline ephemeral volumes are not supported by this driver")
    return _capability(request.volume_capability)


def volume_id(text: str) -> str:
    """A volume id that may be locked and looked up."""
    check_id(text)
    return text


def path(text: str, what: str) -> str:
    """A path that is there; whether it may be touched is for host.paths to say."""
    if not text:
        raise InvalidArgument(f"{what} is missing")
    return text


def _source(request: pb.CreateVolumeRequest) -> tuple[str, bool]:
    """(id of what the volume begins as a copy of or "", whether that is a snapshot)."""
    if not request.HasField("volume_content_source"):
        return "", False
    source = request.volume_content_source
    kind = source.WhichOneof("type")
    if kind is None:
        raise InvalidArgument("volume_content_source names neither a snapshot nor a volume")
    text = source.snapshot.snapshot_id if kind == "snapshot" else source.volume.volume_id
    check_id(text, f"volume_content_source.{kind}")
    return text, kind == "snapshot"


def _capability(message: pb.VolumeCapability) -> Capability:
    kind = message.WhichOneof("access_type")
    if kind is None:
        raise InvalidArgument("volume_capability has no access_type (block or mount)")
    number = message.access_mode.mode
    if number not in _MODES:
        raise InvalidArgument("volume_capability has no access_mode that CSI knows")
    if message.mount.volume_mount_group:
        raise InvalidArgument("volume_mount_group is not supported: this driver has no VOLUME_MOUNT_GROUP")
    flags = tuple(message.mount.mount_flags)
    return Capability(block=kind == "block", mode=AccessMode(number), fs=message.mount.fs_type, flags=flags)
