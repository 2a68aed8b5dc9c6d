"""Group snapshots: one moment of several volumes, all of them or none.

create   intent, images (hidden, all frozen, all cut, all thawed, named, durable), records and intent in one commit
delete   intent, images removed, records and intent in one commit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plugins.core import faults, log
from plugins.core.errors import AlreadyExists, InvalidArgument, NotFound
from plugins.csi import ids
from plugins.csi.cutting import Cutter
from plugins.csi.model import Volume
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_model import Consistency, Group, NewGroup
from plugins.csi.snapshot_records import SnapshotRecords
from plugins.csi.snapshots import Account, allocated, recorded, refuse_elsewhere, source_volume, undo_images
from plugins.csi.volumes import check_id

logger = log.get("csi.groups")

CREATE, DELETE = "group", "group delete"


class Groups:
    """The group snapshots of this node."""

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

    def create(self, wanted: NewGroup) -> Group:
        """The group of that name, cut now unless it exists. The caller holds the locks of name and sources.

        Raises:
            AlreadyExists: the name is taken by a group of other volumes.
            NotFound, FailedPrecondition: a volume is not on this node, or they cannot have one moment.
            ResourceExhausted: the pool has no space for it.
        """
        existing = self._records.group_named(wanted.name)
        if existing and existing.source_ids != frozenset(wanted.source_ids):
            raise AlreadyExists(f"group snapshot {wanted.name!r} exists and is one of other volumes")
        if existing:
            return existing
        volumes = [source_volume(self._volumes, source, self._node) for source in wanted.source_ids]
        made: list[Group] = []
        sources = {volume.id: allocated(self._pool, volume) for volume in volumes}
        self._account.make(sources, lambda: made.append(self._cut(volumes, wanted)))
        logger.info("group snapshot created", group_snapshot_id=made[0].id, members=len(volumes))
        return made[0]

    def delete(self, group: Group) -> None:
        """Remove a group and all its members. The caller holds the lock of its id."""
        intent = self._records.announce(DELETE, group.id, [member.token for member in group.members])
        faults.point("csi.group.delete.announced")
        for member in group.members:
            self._pool.snapshots.remove(member.token)
            faults.point("csi.group.delete.removed")
        self._account.change(list(group.source_ids), lambda: self._records.remove_group(group.id, intent))
        faults.point("csi.group.delete.recorded")
        logger.info("group snapshot deleted", group_snapshot_id=group.id)

    def find(self, group_id: str, snapshot_ids: Sequence[str]) -> Group | None:
        """A group of this node; None where there is none. snapshot_ids: its members as the caller knows them, or none.

        Raises:
            InvalidArgument: the text cannot be an id of any driver, or the members are others.
            FailedPrecondition: it is another node's.
        """
        check_id(group_id, "group_snapshot_id")
        refuse_elsewhere(group_id, ids.GROUP, self._node)
        group = self._records.group(group_id)
        if group and snapshot_ids and set(snapshot_ids) != {member.id for member in group.members}:
            raise InvalidArgument(f"snapshot_ids are not the members of group snapshot {group_id!r}")
        return group

    def get(self, group_id: str, snapshot_ids: Sequence[str]) -> Group:
        """A group of this node.

        Raises:
            InvalidArgument, FailedPrecondition: as `find`. NotFound: there is none.
        """
        group = self.find(group_id, snapshot_ids)
        if group is None:
            raise NotFound(f"group snapshot {group_id!r} does not exist on node {self._node!r}")
        return group

    def _cut(self, volumes: Sequence[Volume], wanted: NewGroup) -> Group:
        group_id = str(ids.new(self._node, ids.GROUP))
        news = [ids.new(self._node, ids.SNAPSHOT) for _ in volumes]
        tokens = [new.token for new in news]
        frozen = [volume.id for volume in volumes] if wanted.consistency is Consistency.FILESYSTEM else []
        intent = self._records.announce(CREATE, group_id, tokens, frozen)
        try:
            faults.point("csi.group.announced")
            cut = self._cutter.cut(volumes, tokens, wanted.consistency, "csi.group")
            members = tuple(
                # No caller can give a snapshot a name with a slash in it.
                recorded(new, f"{group_id}/{number}", volume, cut, number, group_id)
                for number, (new, volume) in enumerate(zip(news, volumes, strict=True))
            )
            group = Group(group_id, wanted.name, cut.created, members)
            self._account.change(wanted.source_ids, lambda: self._records.add_group(group, intent))
        except BaseException:
            undo_images(self._records, self._pool, intent)
            raise
        faults.point("csi.group.recorded")
        return group
