"""CSI Controller, snapshots: thin adapter."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.errors import InvalidArgument
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.oserrors import translated
from plugins.csi.snapshot_model import Consistency, NewSnapshot, Snapshot, consistency
from plugins.csi.snapshots import Snapshots
from plugins.csi.volumes import check_name


class ControllerSnapshots:
    """The methods of ControllerServicer that make, list and remove snapshots."""

    _snapshots: Snapshots
    _locks: KeyedLocks

    @translated
    def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.CreateSnapshotResponse:
        """A snapshot by name: cut now, or the one that was cut before."""
        wanted = _wanted(request)
        with self._locks.hold(_name_key(wanted.name), wanted.source_id):
            return pb.CreateSnapshotResponse(snapshot=message(self._snapshots.create(wanted), self._snapshots.topology))

    @translated
    def DeleteSnapshot(
        self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.DeleteSnapshotResponse:
        """A snapshot gone; one that is not there counts as deleted, unless it is another node's."""
        snapshot = self._snapshots.find(request.snapshot_id)
        if snapshot:
            with self._locks.hold(snapshot.id, _name_key(snapshot.name)):
                again = self._snapshots.find(snapshot.id)  # it may have gone before we had the lock
                if again:
                    self._snapshots.delete(again)
        return pb.DeleteSnapshotResponse()

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> pb.ListSnapshotsResponse:
        """A page of snapshots in the order of their creation. No lock: one read."""
        page, next_token = self._snapshots.page(
            request.starting_token, request.max_entries, request.source_volume_id, request.snapshot_id
        )
        entries = [pb.ListSnapshotsResponse.Entry(snapshot=message(s, self._snapshots.topology)) for s in page]
        return pb.ListSnapshotsResponse(entries=entries, next_token=next_token)

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.GetSnapshotResponse:
        """One snapshot. No lock: one read."""
        snapshot = self._snapshots.get(request.snapshot_id)
        return pb.GetSnapshotResponse(snapshot=message(snapshot, self._snapshots.topology))


def message(snapshot: Snapshot, topology: Mapping[str, str]) -> pb.Snapshot:
    """A snapshot as CSI has it. Every snapshot that is recorded is ready to use."""
    made = pb.Snapshot(
        snapshot_id=snapshot.id,
        source_volume_id=snapshot.source_id,
        size_bytes=snapshot.size,
        ready_to_use=True,
        group_snapshot_id=snapshot.group_id,
        accessible_topology=[pb.Topology(segments=topology)],
    )
    made.creation_time.FromNanoseconds(snapshot.created)
    return made


def _name_key(name: str) -> str:
    """Names and ids share one set of locks; no id begins like this."""
    return f"snapshot-name:{name}"


def _wanted(request: pb.CreateSnapshotRequest) -> NewSnapshot:
    check_name(request.name)
    if not request.source_volume_id:
        raise InvalidArgument("source_volume_id is missing")
    return NewSnapshot(
        name=request.name,
        source_id=requests.volume_id(request.source_volume_id),
        consistency=consistency(request.parameters, Consistency.CRASH),
        requisite=[dict(topology.segments) for topology in request.accessibility_requirements.requisite],
    )
