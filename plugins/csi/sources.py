"""What a new volume may begin as a copy of: a snapshot, or another volume as it is now.

The copy shares all blocks. It is made under a hidden name, checked, lengthened, and only then named; so a copy that was
interrupted is never a volume. A larger copy has a larger image at once, and its filesystem fills it when it is staged.

No lock is taken on the source, so that many volumes can be made of one at the same time: the clone is one operation of
the kernel, and what came out of it is compared with what was recorded before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from plugins.core.errors import Aborted, DataLoss, InvalidArgument, NotFound, OutOfRange, ResourceExhausted
from plugins.csi import ids, sizes
from plugins.csi.capacity import refuse_sharing
from plugins.csi.cutting import Cutter
from plugins.csi.host import filesystems
from plugins.csi.model import Capability, NewVolume, Volume
from plugins.csi.pool import reflink
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_records import SnapshotRecords


@dataclass(frozen=True)
class Source:
    """What is copied. size: bytes; fs: "" for a raw one; volume: set where it is a volume."""

    id: str
    token: str
    size: int
    fs: str
    volume: Volume | None = None

    def plan(self, required: int, limit: int) -> int:
        """The size of a copy in bytes, for a capacity range.

        Raises:
            OutOfRange: it would be smaller than its source.
        """
        if limit and limit < self.size:
            raise OutOfRange(f"{self.id!r} has {self.size} bytes; a copy of it cannot have {limit} at most")
        if required <= self.size:
            return self.size
        return sizes.plan(required, limit, minimum=self.size, default=self.size)


class Sources:
    """The snapshots and volumes of this node, as sources."""

    def __init__(self, volumes: Records, snapshots: SnapshotRecords, pool: Pool, cutter: Cutter, node: str) -> None:
        self._volumes = volumes
        self._snapshots = snapshots
        self._pool = pool
        self._cutter = cutter
        self._node = node

    def find(self, wanted: NewVolume) -> Source:
        """The source that a request names.

        Raises:
            NotFound: there is none. FailedPrecondition: it cannot share its blocks.
            ResourceExhausted: it lies on another node. The provisioner then has the pod scheduled again.
        """
        kind, what = (ids.SNAPSHOT, "snapshot") if wanted.source_is_snapshot else (ids.VOLUME, "volume")
        other = ids.elsewhere(wanted.source, kind, self._node)
        if other:
            raise ResourceExhausted(
                f"{what} {wanted.source!r} lies on node {other!r}, and only there can a volume be made of it; "
                f"this is {self._node!r}"
            )
        found = self._snapshot(wanted.source) if wanted.source_is_snapshot else self._volume(wanted.source)
        if found is None:
            raise NotFound(f"{what} {wanted.source!r} does not exist on node {self._node!r}")
        if found.volume:
            refuse_sharing(found.volume)
        return found

    def filesystem(self, source: Source, capabilities: Sequence[Capability]) -> str:
        """The filesystem that a copy for these uses has; "" where it is used as a raw device only.

        A backup is taken from a filesystem's snapshot as a raw device, and put back the same way. So what lies in a
        raw one counts as its filesystem.

        Raises:
            InvalidArgument: a use as a filesystem that the source has not got.
        """
        if all(capability.block for capability in capabilities):
            return ""
        fs = source.fs
        if not fs:
            with self._opened(source) as image:
                fs = filesystems.detect(image)
        asked = next((c.fs for c in capabilities if not c.block and c.fs), fs)
        if fs not in filesystems.KNOWN or asked != fs:
            raise InvalidArgument(f"{source.id!r} holds {fs}; a volume made of it cannot be used as {asked}")
        return fs

    @contextlib.contextmanager
    def content(self, source: Source, size: int, fs: str) -> Iterator[Callable[[int], None]]:
        """What fills the image of a copy, `size` bytes long.

        Raises:
            Aborted: the source changed its kind or went away meanwhile; ask again.
        """
        with self._opened(source) as image:
            if source.volume:
                self._cutter.flush(source.volume, image)
            yield lambda fd: _fill(fd, image, source, size, fs)

    def _opened(self, source: Source) -> _Descriptor:
        images = self._pool.images if source.volume else self._pool.snapshots
        try:
            return _Descriptor(images.open(source.token))
        except FileNotFoundError as error:
            known = self._volume(source.id) if source.volume else self._snapshot(source.id)
            if known is None:
                raise NotFound(f"{source.id!r} has just been deleted") from error
            if self._volumes.under_way(source.token):
                raise Aborted(f"{source.id!r} is being deleted; ask again") from error
            raise DataLoss(f"the image of {source.id!r} is missing from the pool {self._pool.path}") from error

    def _volume(self, volume_id: str) -> Source | None:
        volume = self._volumes.volume(volume_id)
        return Source(volume.id, volume.token, volume.size, volume.fs, volume) if volume else None

    def _snapshot(self, snapshot_id: str) -> Source | None:
        snapshot = self._snapshots.snapshot(snapshot_id)
        return Source(snapshot.id, snapshot.token, snapshot.size, snapshot.fs) if snapshot else None


class _Descriptor:
    """A descriptor that is closed at the end of a block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _fill(fd: int, image: int, source: Source, size: int, fs: str) -> None:
    reflink.clone(fd, image)
    if os.fstat(fd).st_size != source.size or (fs and filesystems.detect(fd) != fs):
        raise Aborted(f"{source.id!r} changed while it was copied; ask again")
    if size > source.size:
        os.ftruncate(fd, size)
