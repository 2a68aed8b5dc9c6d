"""What the pool can still promise. Volumes are thin: a promise takes no space, and must be kept all the same."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from plugins.core.errors import ResourceExhausted
from plugins.core.units import Bytes
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

    def available(self) -> int:
        """The largest volume, in bytes, that could be made now."""
        total, free = self._pool.space()
        if free <= self._reserve:
            return 0
        usable = total - self._others - self._reserve
        return max(0, int(usable * self._overcommit) - self._promised)

    def refresh(self) -> None:
        """Count again what others keep on a filesystem that the pool shares: a look at every image, so not often."""
        if not self._pool.dedicated and time.monotonic() - self._counted > _OTHERS_FOR_S:
            self._others, self._counted = self._count_others(), time.monotonic()

    @contextlib.contextmanager
    def promise(self, size: int, node: str) -> Iterator[None]:
        """Promise `size` bytes; taken back if the block raises.

        Raises:
            ResourceExhausted: the pool cannot hold it.
        """
        with self._guard:
            available = self.available()
            if size > available:
                raise ResourceExhausted(
                    f"node {node!r} has {Bytes(available)} left for volumes and {Bytes(size)} were asked for"
                )
            self._promised += size
        try:
            yield
        except BaseException:
            self.release(size)
            raise

    def release(self, size: int) -> None:
        """A volume of that many bytes has gone."""
        with self._guard:
            self._promised -= size

    def _count_others(self) -> int:
        total, free = self._pool.space()
        return max(0, total - free - self._pool.images.allocated())
