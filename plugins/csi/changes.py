"""Which blocks of a snapshot hold data, and which differ from an older one: for backups that read only those.

Exact by construction: nothing is read or compared but the filesystem's own map of blocks (pool.extents).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from plugins.core.errors import Aborted, DataLoss, FailedPrecondition, OutOfRange
from plugins.csi.pool import extents
from plugins.csi.pool.extents import Range
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_model import Snapshot


class Changes:
    """Looks only, and takes no lock: what is opened stays what it was, even if its snapshot is deleted meanwhile."""

    def __init__(self, records: Records, pool: Pool) -> None:
        self._records = records
        self._pool = pool

    def allocated(self, snapshot: Snapshot, start: int) -> Iterator[Range]:
        """The ranges of a snapshot that may hold data, from the byte `start` on.

        Raises:
            OutOfRange: the snapshot has no such byte. DataLoss: its image is missing.
        """
        _check_start(snapshot, start)
        return self._walk(start, snapshot)

    def changed(self, base: Snapshot, target: Snapshot, start: int) -> Iterator[Range]:
        """The ranges in which two snapshots of one volume may differ, from the byte `start` of the target on.

        Raises:
            FailedPrecondition: they are of different volumes, or the base is the newer one.
            OutOfRange, DataLoss: as `allocated`.
        """
        if base.source_id != target.source_id:
            raise FailedPrecondition(
                f"snapshots {base.id!r} and {target.id!r} are of different volumes: take all allocated blocks instead"
            )
        if base.seq > target.seq:
            raise FailedPrecondition(f"snapshot {base.id!r} is newer than {target.id!r}: it cannot be the base")
        _check_start(target, start)
        return self._walk(start, target, base)

    def _walk(self, start: int, target: Snapshot, base: Snapshot | None = None) -> Iterator[Range]:
        """Opened with the first step and closed at the end, or when the caller gives up."""
        with contextlib.ExitStack() as stack:
            image = self._opened(stack, target)
            if base is None:
                yield from extents.allocated(image, start, target.size)
            else:
                yield from extents.changed(self._opened(stack, base), image, start, target.size)

    def _opened(self, stack: contextlib.ExitStack, snapshot: Snapshot) -> int:
        try:
            image = self._pool.snapshots.open(snapshot.token)
        except FileNotFoundError as error:
            if self._records.under_way(snapshot.token):
                raise Aborted(f"snapshot {snapshot.id!r} is being deleted; ask again") from error
            raise DataLoss(f"the image of snapshot {snapshot.id!r} is missing from the pool") from error
        stack.callback(os.close, image)
        return image


def _check_start(snapshot: Snapshot, start: int) -> None:
    if not 0 <= start < snapshot.size:
        raise OutOfRange(f"starting_offset {start} does not lie in snapshot {snapshot.id!r}, which has {snapshot.size}")
