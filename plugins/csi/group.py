"""CSI GroupController: thin adapter. Request to values, lock, domain, reply."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.errors import InvalidArgument
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.controller_snapshots import message
from plugins.csi.groups import Groups
from plugins.csi.oserrors import translated
from plugins.csi.snapshot_model import Consistency, Group, NewGroup, consistency
from plugins.csi.volumes import check_name

_Rpc = pb.GroupControllerServiceCapability.RPC


class GroupController(rpc.GroupControllerServicer):
    """One moment of several volumes of this node."""

    def __init__(self, groups: Groups, locks: KeyedLocks) -> None:
        """locks: of volumes, by id; shared with the controller and node services."""
        self._groups = groups
        self._locks = locks
        kind = _Rpc(type=_Rpc.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT)
        self._capabilities = pb.GroupControllerGetCapabilitiesResponse(
            capabilities=[pb.GroupControllerServiceCapability(rpc=kind)]
        )

    def GroupControllerGetCapabilities(
        self, request: pb.GroupControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GroupControllerGetCapabilitiesResponse:
        """What of the group service is served: all of it."""
        return self._capabilities

    @translated
    def CreateVolumeGroupSnapshot(
        self, request: pb.CreateVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.CreateVolumeGroupSnapshotResponse:
        """A group by name: cut now, or the one that was cut before."""
        wanted = _wanted(request)
        with self._locks.hold(_name_key(wanted.name), *wanted.source_ids):
            return pb.CreateVolumeGroupSnapshotResponse(group_snapshot=self._message(self._groups.create(wanted)))

    @translated
    def DeleteVolumeGroupSnapshot(
        self, request: pb.DeleteVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.DeleteVolumeGroupSnapshotResponse:
        """A group gone with all its members; one that is not there counts as deleted, unless it is another node's."""
        group = self._groups.find(request.group_snapshot_id, request.snapshot_ids)
        if group:
            with self._locks.hold(group.id, _name_key(group.name)):
                again = self._groups.find(group.id, ())  # it may have gone before we had the lock
                if again:
                    self._groups.delete(again)
        return pb.DeleteVolumeGroupSnapshotResponse()

    def GetVolumeGroupSnapshot(
        self, request: pb.GetVolumeGroupSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeGroupSnapshotResponse:
        """One group. No lock: one read."""
        group = self._groups.get(request.group_snapshot_id, request.snapshot_ids)
        return pb.GetVolumeGroupSnapshotResponse(group_snapshot=self._message(group))

    def _message(self, group: Group) -> pb.VolumeGroupSnapshot:
        made = pb.VolumeGroupSnapshot(
            group_snapshot_id=group.id,
            snapshots=[message(member, self._groups.topology) for member in group.members],
            ready_to_use=True,
        )
        made.creation_time.FromNanoseconds(group.created)
        return made


def _name_key(name: str) -> str:
    """Names and ids share one set of locks; no id begins like this."""
    return f"group-name:{name}"


def _wanted(request: pb.CreateVolumeGroupSnapshotRequest) -> NewGroup:
    check_name(request.name)
    if not request.source_volume_ids:
        raise InvalidArgument("source_volume_ids is missing")
    sources = tuple(requests.volume_id(text) for text in request.source_volume_ids)
    if len(set(sources)) < len(sources):
        raise InvalidArgument("source_volume_ids names a volume twice")
    return NewGroup(request.name, sources, consistency(request.parameters, Consistency.FILESYSTEM))
