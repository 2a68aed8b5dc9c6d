"""CSI Controller: thin adapter. Request to values, lock, domain, reply."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.errors import InvalidArgument
from plugins.core.locks import KeyedLocks
from plugins.csi import ids, requests
from plugins.csi.attaching import Attachments
from plugins.csi.controller_attach import ControllerAttach
from plugins.csi.controller_expand import ControllerExpand
from plugins.csi.controller_health import ControllerHealth
from plugins.csi.controller_modify import ControllerModify
from plugins.csi.controller_snapshots import ControllerSnapshots
from plugins.csi.expansion import Expansion
from plugins.csi.health import Health
from plugins.csi.limits import Limits
from plugins.csi.model import Volume
from plugins.csi.oserrors import translated
from plugins.csi.served import only_own_methods
from plugins.csi.snapshots import Snapshots
from plugins.csi.volumes import Volumes

_Rpc = pb.ControllerServiceCapability.RPC
_CAPABILITIES = (
    _Rpc.CREATE_DELETE_VOLUME,
    _Rpc.LIST_VOLUMES,
    _Rpc.GET_VOLUME,
    _Rpc.GET_CAPACITY,
    _Rpc.CREATE_DELETE_SNAPSHOT,
    _Rpc.LIST_SNAPSHOTS,
    _Rpc.GET_SNAPSHOT,
    _Rpc.CLONE_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
    _Rpc.GET_VOLUME_HEALTH,
    _Rpc.LIST_VOLUME_HEALTH,
)
_ATTACHING = (_Rpc.PUBLISH_UNPUBLISH_VOLUME, _Rpc.PUBLISH_READONLY, _Rpc.LIST_VOLUMES_PUBLISHED_NODES)


@only_own_methods
class Controller(
    ControllerAttach,
    ControllerExpand,
    ControllerHealth,
    ControllerModify,
    ControllerSnapshots,
    rpc.ControllerServicer,
):
    """Volumes of this node, made and listed."""

    def __init__(
        self,
        volumes: Volumes,
        health: Health,
        snapshots: Snapshots,
        limits: Limits,
        attachments: Attachments,
        locks: KeyedLocks,
        *,
        expansion: Expansion | None = None,
    ) -> None:
        """
        Args:
            locks: of volumes, by id and by name; shared with the node service.
            expansion: None where the node service does it all.
        """
        self._volumes = volumes
        self._health = health
        self._snapshots = snapshots
        self._limits = limits
        self._attachments = attachments
        self._locks = locks
        self._expansion = expansion
        kinds = [*_CAPABILITIES]
        if expansion:
            kinds.append(_Rpc.EXPAND_VOLUME)
        if attachments.on:
            kinds += _ATTACHING
        if limits.available:
            kinds.append(_Rpc.MODIFY_VOLUME)
        self._capabilities = pb.ControllerGetCapabilitiesResponse(
            capabilities=[pb.ControllerServiceCapability(rpc=_Rpc(type=kind)) for kind in kinds]
        )

    def ControllerGetCapabilities(
        self, request: pb.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetCapabilitiesResponse:
        """What of the controller service is served."""
        return self._capabilities

    @translated
    def CreateVolume(self, request: pb.CreateVolumeRequest, context: grpc.ServicerContext) -> pb.CreateVolumeResponse:
        """A volume by name: made now, or the one that was made before."""
        wanted = requests.new_volume(request)
        with self._locks.hold(_name_key(wanted.name)):
            return pb.CreateVolumeResponse(volume=_message(self._volumes.create(wanted), self._volumes.topology))

    @translated
    def DeleteVolume(self, request: pb.DeleteVolumeRequest, context: grpc.ServicerContext) -> pb.DeleteVolumeResponse:
        """A volume gone; one that is not there counts as deleted, unless it is another node's."""
        volume = self._volumes.to_delete(request.volume_id)
        if volume:
            with self._locks.hold(volume.id, _name_key(volume.name)):
                again = self._volumes.to_delete(volume.id)  # it may have gone before we had the lock
                if again:
                    self._attachments.check_detached(again)
                    self._volumes.delete(again)
        return pb.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: pb.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.ValidateVolumeCapabilitiesResponse:
        """Whether a volume can be used as asked. No lock: one read."""
        if not request.volume_id:
            raise InvalidArgument("volume_id is missing")
        wanted = requests.capabilities(request.volume_capabilities)
        volume = self._volumes.get(request.volume_id)
        objection = next((o for c in wanted if (o := volume.objection(c))), "")
        if not objection and dict(request.parameters) not in ({}, dict(volume.parameters)):
            objection = "the volume was made with other parameters"
        response = pb.ValidateVolumeCapabilitiesResponse(message=objection)
        if not objection:
            response.confirmed.volume_context.update(request.volume_context)
            response.confirmed.volume_capabilities.extend(request.volume_capabilities)
            response.confirmed.parameters.update(request.parameters)
        return response

    def ListVolumes(self, request: pb.ListVolumesRequest, context: grpc.ServicerContext) -> pb.ListVolumesResponse:
        """A page of volumes in the order of their creation. No lock: one read."""
        page, next_token = self._volumes.page(request.starting_token, request.max_entries)
        response = pb.ListVolumesResponse(next_token=next_token)
        for volume in page:
            entry = response.entries.add(volume=_message(volume, self._volumes.topology))
            if self._attachments.on:
                entry.status.published_node_ids.extend(self._attachments.nodes(volume))
        return response

    def ControllerGetVolume(
        self, request: pb.ControllerGetVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetVolumeResponse:
        """One volume. No lock: one read."""
        volume = self._volumes.get(requests.volume_id(request.volume_id))
        response = pb.ControllerGetVolumeResponse(volume=_message(volume, self._volumes.topology))
        response.status.SetInParent()
        response.status.published_node_ids.extend(self._attachments.nodes(volume))
        return response

    @translated
    def GetCapacity(self, request: pb.GetCapacityRequest, context: grpc.ServicerContext) -> pb.GetCapacityResponse:
        """What could be made here now. No lock: the answer is a snapshot anyway."""
        wanted = requests.capabilities(request.volume_capabilities) if request.volume_capabilities else ()
        topology = dict(request.accessible_topology.segments)
        available = self._volumes.available(wanted, topology, dict(request.parameters))
        response = pb.GetCapacityResponse(available_capacity=available)
        response.maximum_volume_size.value = available
        response.minimum_volume_size.value = max((self._volumes.smallest_for(c) for c in wanted), default=1)
        return response


def _name_key(name: str) -> str:
    """Names and ids share one set of locks; no id begins like this."""
    return f"name:{name}"


def _message(volume: Volume, topology: Mapping[str, str]) -> pb.Volume:
    made = pb.Volume(
        volume_id=volume.id, capacity_bytes=volume.size, accessible_topology=[pb.Topology(segments=topology)]
    )
    if volume.source and ids.parse(volume.source, ids.SNAPSHOT):
        made.content_source.snapshot.snapshot_id = volume.source
    elif volume.source:
        made.content_source.volume.volume_id = volume.source
    return made
