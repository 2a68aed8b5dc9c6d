"""CSI SnapshotMetadata: thin streaming adapter. No locks: a stream shows what it opened, whatever happens meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.errors import InvalidArgument
from plugins.csi.changes import Changes
from plugins.csi.pool.extents import Range
from plugins.csi.snapshots import Snapshots

_DEFAULT_RESULTS = 1024  # ranges in one message
_MOST_RESULTS = 16384  # far below the 4 MiB that a client takes by default


class SnapshotMetadata(rpc.SnapshotMetadataServicer):
    """Which blocks of snapshots hold data, and which changed."""

    def __init__(self, snapshots: Snapshots, changes: Changes) -> None:
        self._snapshots = snapshots
        self._changes = changes

    def GetMetadataAllocated(
        self, request: pb.GetMetadataAllocatedRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetMetadataAllocatedResponse]:
        """The ranges of a snapshot that may hold data."""
        count = _count(request.max_results)
        snapshot = self._snapshots.get(request.snapshot_id)
        for ranges in _batches(self._changes.allocated(snapshot, request.starting_offset), count):
            yield pb.GetMetadataAllocatedResponse(
                block_metadata_type=pb.VARIABLE_LENGTH, volume_capacity_bytes=snapshot.size, block_metadata=ranges
            )

    def GetMetadataDelta(
        self, request: pb.GetMetadataDeltaRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetMetadataDeltaResponse]:
        """The ranges in which a snapshot may differ from an older one of its volume."""
        count = _count(request.max_results)
        if not request.base_snapshot_id or not request.target_snapshot_id:
            raise InvalidArgument("base_snapshot_id or target_snapshot_id is missing")
        base = self._snapshots.get(request.base_snapshot_id)
        target = self._snapshots.get(request.target_snapshot_id)
        for ranges in _batches(self._changes.changed(base, target, request.starting_offset), count):
            yield pb.GetMetadataDeltaResponse(
                block_metadata_type=pb.VARIABLE_LENGTH, volume_capacity_bytes=target.size, block_metadata=ranges
            )


def _count(max_results: int) -> int:
    if max_results < 0:
        raise InvalidArgument("max_results is negative")
    return min(max_results or _DEFAULT_RESULTS, _MOST_RESULTS)


def _batches(ranges: Iterator[Range], count: int) -> Iterator[list[pb.BlockMetadata]]:
    """Messages of at most `count` ranges; one without any where there are none, since it tells the size."""
    messages = (pb.BlockMetadata(byte_offset=found.start, size_bytes=found.end - found.start) for found in ranges)
    batch = list(itertools.islice(messages, count))
    yield batch
    while batch := list(itertools.islice(messages, count)):
        yield batch
