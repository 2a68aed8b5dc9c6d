"""Snapshots come and go: the controller's rules, without gRPC.

create   intent, image (hidden, cut, named, durable), record and intent in one commit
delete   intent, image removed, record and intent in one commit

A snapshot is an image of its own that shares blocks. It stays whole when its volume changes, and when that is deleted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence

from plugins.core import faults, log
from plugins.core.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from plugins.core.store import Intent
from plugins.csi import ids, paging
from plugins.csi.capacity import Capacity
from plugins.csi.cutting import Cut, Cutter
from plugins.csi.model import Volume
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_model import Consistency, NewSnapshot, Snapshot
from plugins.csi.snapshot_records import SnapshotRecords
from plugins.csi.volumes import check_id

logger = log.get("csi.snapshots")

CREATE, DELETE = "snapshot", "snapshot delete"


class Account:
    """What snapshots may keep from being freed, as promises of the pool.

    For each volume that is the largest of its snapshots: what the volume can still rewrite beneath them. What it has
    rewritten already is used space, and counts as that.
    """

    def __init__(self, records: SnapshotRecords, capacity: Capacity, node: str) -> None:
        self._records = records
        self._capacity = capacity
        self._node = node
        self._guard = threading.Lock()  # for one commit, so that no other falls between the two sums

    def change(self, source_ids: Sequence[str], change: Callable[[], None]) -> None:
        """Make a change to the records of snapshots of these volumes, and promise or release the difference."""
        with self._guard:
            before = sum(map(self._records.held, set(source_ids)))
            change()
            self._capacity.release(before - sum(map(self._records.held, set(source_ids))))

    def make(self, sources: Mapping[str, int], work: Callable[[], None]) -> None:
        """Do some work under a promise for it.

        Args:
            sources: ids of the volumes to be cut, and the bytes that their images have allocated.

        Raises:
            ResourceExhausted: the pool has no space for that; nothing was done.
        """
        extra = sum(max(0, size - self._records.held(source)) for source, size in sources.items())
        with self._capacity.promise(extra, self._node):
            work()
        self._capacity.release(extra)  # the records speak for themselves now


class Snapshots:
    """The snapshots of this node."""

    def __init__(
        self,
        records: SnapshotRecords,
        volumes: Records,
        pool: Pool,
        account: Account,
        cutter: Cutter,
        *,
        node: str,
        topology: Mapping[str, str],
    ) -> None:
        self._records = records
        self._volumes = volumes
        self._pool = pool
        self._account = account
        self._cutter = cutter
        self._node = node
        self.topology = topology

    def create(self, wanted: NewSnapshot) -> Snapshot:
        """The snapshot of that name, cut now unless it exists. The caller holds the locks of name and source.

        Raises:
            AlreadyExists: the name is taken by a snapshot of another volume.
            NotFound, FailedPrecondition: there is no such volume on this node.
            ResourceExhausted: the pool has no space for it, or it shall be accessible elsewhere.
        """
        existing = self._records.named(wanted.name)
        if existing and existing.source_id != wanted.source_id:
            raise AlreadyExists(f"snapshot {wanted.name!r} exists and is one of volume {existing.source_id!r}")
        if existing:
            return existing
        volume = source_volume(self._volumes, wanted.source_id, self._node)
        if wanted.requisite and not any(self._matches(topology) for topology in wanted.requisite):
            raise ResourceExhausted(f"snapshots of node {self._node!r} are accessible from that node only")
        made: list[Snapshot] = []
        sources = {volume.id: allocated(self._pool, volume)}
        self._account.make(sources, lambda: made.append(self._cut(volume, wanted)))
        logger.info("snapshot created", snapshot_id=made[0].id, volume_id=volume.id, held_bytes=made[0].held)
        return made[0]

    def delete(self, snapshot: Snapshot) -> None:
        """Remove a snapshot. The caller holds the lock of its id.

        Raises:
            FailedPrecondition: it belongs to a group, which is deleted as a whole.
        """
        if snapshot.group_id:
            raise FailedPrecondition(
                f"snapshot {snapshot.id!r} belongs to group snapshot {snapshot.group_id!r} and is deleted with it"
            )
        intent = self._records.announce(DELETE, snapshot.id, [snapshot.token])
        faults.point("csi.snapshot.delete.announced")
        self._pool.snapshots.remove(snapshot.token)
        faults.point("csi.snapshot.delete.removed")
        self._account.change([snapshot.source_id], lambda: self._records.remove(snapshot.id, intent))
        faults.point("csi.snapshot.delete.recorded")
        logger.info("snapshot deleted", snapshot_id=snapshot.id)

    def find(self, snapshot_id: str) -> Snapshot | None:
        """A snapshot of this node; None where there is none.

        Raises:
            InvalidArgument: the text cannot be an id of any driver.
            FailedPrecondition: it is another node's: "there is none" would be a lie that leaks it for ever.
        """
        check_id(snapshot_id, "snapshot_id")
        refuse_elsewhere(snapshot_id, ids.SNAPSHOT, self._node)
        return self._records.snapshot(snapshot_id)

    def get(self, snapshot_id: str) -> Snapshot:
        """A snapshot of this node.

        Raises:
            InvalidArgument, FailedPrecondition: as `find`. NotFound: there is none.
        """
        snapshot = self.find(snapshot_id)
        if snapshot is None:
            raise NotFound(f"snapshot {snapshot_id!r} does not exist on node {self._node!r}")
        return snapshot

    def page(self, token: str, limit: int, source_id: str, snapshot_id: str) -> tuple[Sequence[Snapshot], str]:
        """Snapshots in the order of their creation, and the token of the next page; empty filters match all.

        Raises:
            InvalidArgument, Aborted: limit, token. FailedPrecondition: a filter names something of another node.
        """
        refuse_elsewhere(snapshot_id, ids.SNAPSHOT, self._node)
        refuse_elsewhere(source_id, ids.VOLUME, self._node)
        return paging.page(token, limit, lambda after, n: self._records.snapshots(after, n, source_id, snapshot_id))

    def _cut(self, volume: Volume, wanted: NewSnapshot) -> Snapshot:
        new = ids.new(self._node, ids.SNAPSHOT)
        frozen = [volume.id] if wanted.consistency is Consistency.FILESYSTEM else []
        intent = self._records.announce(CREATE, str(new), [new.token], frozen)
        try:
            faults.point("csi.snapshot.announced")
            cut = self._cutter.cut([volume], [new.token], wanted.consistency, "csi.snapshot")
            snapshot = recorded(new, wanted.name, volume, cut, 0)
            self._account.change([volume.id], lambda: self._records.add(snapshot, intent))
        except BaseException:
            undo_images(self._records, self._pool, intent)
            raise
        faults.point("csi.snapshot.recorded")
        return snapshot

    def _matches(self, segments: Mapping[str, str]) -> bool:
        return all(self.topology.get(key) == value for key, value in segments.items())


def recorded(new: ids.VolumeId, name: str, volume: Volume, cut: Cut, index: int, group_id: str = "") -> Snapshot:
    """What is to be remembered of the image of that number of a cut."""
    return Snapshot(
        seq=0,
        id=str(new),
        token=new.token,
        name=name,
        source_id=volume.id,
        size=volume.size,
        held=cut.held[index],
        fs=volume.fs,
        created=cut.created,
        group_id=group_id,
    )


def source_volume(volumes: Records, volume_id: str, node: str) -> Volume:
    """The volume to be cut.

    Raises:
        InvalidArgument: the text cannot be an id. FailedPrecondition: it is another node's. NotFound: there is none.
    """
    check_id(volume_id, "source_volume_id")
    refuse_elsewhere(volume_id, ids.VOLUME, node)
    volume = volumes.volume(volume_id)
    if volume is None:
        raise NotFound(f"volume {volume_id!r} does not exist on node {node!r}")
    return volume


def refuse_elsewhere(text: str, kind: str, node: str) -> None:
    """Refuse an id of another node.

    Raises:
        FailedPrecondition: it is one, and the message names the node.
    """
    other = ids.elsewhere(text, kind, node)
    if other:
        raise FailedPrecondition(f"{text!r} lies on node {other!r}; this is {node!r}")


def allocated(pool: Pool, volume: Volume) -> int:
    """Bytes of disk that a volume's image takes, at most its size."""
    with pool.opened(volume.token) as image:
        return min(volume.size, os.fstat(image).st_blocks * 512)


def undo_images(records: SnapshotRecords, pool: Pool, intent: Intent) -> None:
    """Remove what a cut has made so far, and settle its intent."""
    for token in intent.data["tokens"]:
        pool.snapshots.remove(token)
    records.settle(intent)
