"""The pools in numbers, looked up whenever somebody reads the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

from plugins.core import metrics
from plugins.csi.capacity import Capacity
from plugins.csi.pool.pool import Pool

_LABELS = ("pool",)
_total = metrics.gauge("csi_pool_size_bytes", "Size of the pool's filesystem.", _LABELS)
_free = metrics.gauge("csi_pool_free_bytes", "Bytes of the pool that nothing takes yet.", _LABELS)
_promised = metrics.gauge("csi_pool_promised_bytes", "Bytes promised to volumes, and held by snapshots.", _LABELS)
_available = metrics.gauge("csi_pool_available_bytes", "The largest volume that could be made now.", _LABELS)


def follow(name: str, pool: Pool, capacity: Capacity) -> None:
    """From now on these numbers are this pool's."""
    _total.follow(_known(lambda: pool.space()[0]), pool=name)
    _free.follow(_known(lambda: pool.space()[1]), pool=name)
    _promised.follow(_known(lambda: capacity.promised), pool=name)
    _available.follow(_known(capacity.available), pool=name)


def _known(source: Callable[[], float]) -> Callable[[], float]:
    """NaN where the pool has failed, or has been closed: one number less, and not no metrics at all."""

    def value() -> float:
        try:
            return float(source())
        except OSError:
            return math.nan

    return value
