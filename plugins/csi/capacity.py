"""What the pool can still promise.

A thin volume takes no space until it is written, and the promise must be kept all the same. A thick one has its space
from the beginning: it is never overcommitted, and nothing else may share blocks with it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from plugins.core.errors import FailedPrecondition, ResourceExhausted
from plugins.core.units import Bytes
from plugins.csi.model import Volume
from plugins.csi.pool.pool import Pool

_OTHERS_FOR_S = 60.0  # how long a count of what is not ours stays good


class Capacity:
    """The account of one pool: a running sum, so that no request ever adds up all volumes."""

    def __init__(self, pool: Pool, promised: int, *, reserve: int, overcommit: float) -> None:
        """
        Args:
            promised: bytes of all volumes that exist.
            reserve: bytes that are never promised.
            overcommit: bytes promised per byte there.
        """
        self._pool = pool
        self._promised = promised
        self._reserve = reserve
        self._overcommit = overcommit
        self._guard = threading.Lock()
        self._others = 0 if pool.dedicated else self._count_others()
        self._counted = time.monotonic()

    @property
    def promised(self) -> int:
        """Bytes of all volumes."""
        return self._promised

    def available(self, *, thick: bool = False) -> int:
        """The largest volume, in bytes, that could be made now."""
        total, free = self._pool.space()
        if free <= self._reserve or (thick and not self._pool.keeps_space):
            return 0
        usable = total - self._others - self._reserve
        left = max(0, int(usable * self._overcommit) - self._promised)
        return min(int(left / self._weight(thick)), free - self._reserve) if thick else left

    def refresh(self) -> None:
        """Count again what others keep on a filesystem that the pool shares: a look at every image, so not often."""
        if not self._pool.dedicated and time.monotonic() - self._counted > _OTHERS_FOR_S:
            self._others, self._counted = self._count_others(), time.monotonic()

    @contextlib.contextmanager
    def promise(self, size: int, node: str, *, thick: bool = False) -> Iterator[None]:
        """Promise `size` bytes; taken back if the block raises.

        Raises:
            ResourceExhausted: the pool cannot hold it.
        """
        with self._guard:
            available = self.available(thick=thick)
            if size > available:
                if thick and not self._pool.keeps_space:
                    raise ResourceExhausted(
                        f"the pool of node {node!r} cannot keep space for thick volumes: it would have to be an XFS "
                        "filesystem that lies on no image"
                    )
                raise ResourceExhausted(
                    f"node {node!r} has {Bytes(available)} left for volumes and {Bytes(size)} were asked for"
                )
            self._promised += int(size * self._weight(thick))
        try:
            yield
        except BaseException:
            self.release(size, thick=thick)
            raise

    def release(self, size: int, *, thick: bool = False) -> None:
        """A volume of that many bytes has gone."""
        with self._guard:
            self._promised -= int(size * self._weight(thick))

    def known(self, size: int) -> None:
        """Start-up: count thick volumes of that many bytes in all, which the sum of the beginning counts as thin."""
        self._promised += int(size * self._weight(True)) - size

    def _weight(self, thick: bool) -> float:
        """What a byte counts: a thick one takes the place of all the thin ones that might be promised in its stead."""
        return max(1.0, self._overcommit) if thick else 1.0

    def _count_others(self) -> int:
        total, free = self._pool.space()
        return max(0, total - free - self._pool.images.allocated())


def refuse_sharing(volume: Volume) -> None:
    """Before a snapshot or a copy of a volume: both would share its blocks, and its next writes would need new ones.

    Raises:
        FailedPrecondition: it is thick.
    """
    if volume.thick:
        raise FailedPrecondition(
            f"volume {volume.id!r} is thick: a snapshot or a copy would share its blocks, and then its own writes "
            "could lack space. Copy the data into another volume, or use a class with provisioning: thin"
        )
