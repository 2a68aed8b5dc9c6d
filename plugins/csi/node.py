"""CSI Node: thin adapter. Request to values, lock, domain, reply."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.attaching import Attachments
from plugins.csi.expansion import Expansion
from plugins.csi.health import Health
from plugins.csi.node_expand import NodeExpand
from plugins.csi.node_health import NodeHealth
from plugins.csi.oserrors import translated
from plugins.csi.publishing import Publications
from plugins.csi.served import only_own_methods
from plugins.csi.staging import Stagings
from plugins.csi.stats import Stats
from plugins.csi.volumes import Volumes

_Rpc = pb.NodeServiceCapability.RPC
_CAPABILITIES = (
    _Rpc.STAGE_UNSTAGE_VOLUME,
    _Rpc.GET_VOLUME_STATS,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
    _Rpc.EXPAND_VOLUME,
    _Rpc.GET_VOLUME_HEALTH,
    _Rpc.GET_STORAGE_HEALTH,
)
_BYTES, _INODES = pb.VolumeUsage.BYTES, pb.VolumeUsage.INODES


@only_own_methods
class Node(NodeExpand, NodeHealth, rpc.NodeServicer):
    """Volumes of this node, in use."""

    def __init__(
        self,
        volumes: Volumes,
        stagings: Stagings,
        publications: Publications,
        stats: Stats,
        expansion: Expansion,
        health: Health,
        attachments: Attachments,
        locks: KeyedLocks,
        *,
        node_id: str,
        volume_limit: int,
    ) -> None:
        """locks: of volumes, by id; shared with the controller service. volume_limit: 0 for none."""
        self._volumes = volumes
        self._stagings = stagings
        self._publications = publications
        self._stats = stats
        self._expansion = expansion
        self._health = health
        self._attachments = attachments
        self._locks = locks
        topology = pb.Topology(segments=volumes.topology)
        self._info = pb.NodeGetInfoResponse(
            node_id=node_id, max_volumes_per_node=volume_limit, accessible_topology=topology
        )
        self._capabilities = pb.NodeGetCapabilitiesResponse(
            capabilities=[pb.NodeServiceCapability(rpc=_Rpc(type=kind)) for kind in _CAPABILITIES]
        )

    def NodeGetCapabilities(
        self, request: pb.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetCapabilitiesResponse:
        """What of the node service is served."""
        return self._capabilities

    def NodeGetInfo(self, request: pb.NodeGetInfoRequest, context: grpc.ServicerContext) -> pb.NodeGetInfoResponse:
        """Name, topology and limit of this node."""
        return self._info

    @translated
    def NodeStageVolume(
        self, request: pb.NodeStageVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeStageVolumeResponse:
        """A volume attached, and mounted at its staging path."""
        capability = requests.capability(request)
        path = requests.path(request.staging_target_path, "staging_target_path")
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id, _path_key(path)):
            volume = self._volumes.get(volume_id)
            self._attachments.read_only(volume)
            self._stagings.stage(volume, capability, path)
        return pb.NodeStageVolumeResponse()

    @translated
    def NodeUnstageVolume(
        self, request: pb.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnstageVolumeResponse:
        """The opposite."""
        path = requests.path(request.staging_target_path, "staging_target_path")
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id, _path_key(path)):
            self._stagings.unstage(self._volumes.get(volume_id), path)
        return pb.NodeUnstageVolumeResponse()

    @translated
    def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        """A staged volume shown at a target path."""
        capability = requests.capability(request)
        target = requests.path(request.target_path, "target_path")
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id, _path_key(target)):
            volume = self._volumes.get(volume_id)
            read_only = request.readonly or self._attachments.read_only(volume)
            self._publications.publish(volume, capability, request.staging_target_path, target, read_only)
        return pb.NodePublishVolumeResponse()

    @translated
    def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        """The opposite."""
        target = requests.path(request.target_path, "target_path")
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id, _path_key(target)):
            self._publications.unpublish(self._volumes.get(volume_id), target)
        return pb.NodeUnpublishVolumeResponse()

    @translated
    def NodeGetVolumeStats(
        self, request: pb.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeStatsResponse:
        """How full a volume is. No lock: it only looks, and the kubelet asks all the time."""
        path = requests.path(request.volume_path, "volume_path")
        usage = self._stats.of(self._volumes.get(requests.volume_id(request.volume_id)), path)
        messages = [_usage(_BYTES, usage.bytes)]
        if usage.inodes:
            messages.append(_usage(_INODES, usage.inodes))
        return pb.NodeGetVolumeStatsResponse(usage=messages)


def _path_key(path: str) -> str:
    """Two volumes at one path: only one call at a time looks at what is there and mounts. No id begins like this."""
    return f"path:{path.rstrip('/')}"


def _usage(unit: pb.VolumeUsage.Unit.ValueType, numbers: Mapping[str, int]) -> pb.VolumeUsage:
    return pb.VolumeUsage(unit=unit, **numbers)
