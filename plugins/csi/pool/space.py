"""How much room a pool has."""

from __future__ import annotations

import os
from pathlib import Path


def of(directory: int | Path, image: Path | None) -> tuple[int, int]:
    """(total, free) bytes of a pool.

    Args:
        directory: of the pool, or a descriptor of it.
        image: of an embedded pool: it has no more free than the filesystem below its image.
    """
    status = os.statvfs(directory)
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    if image:
        below = os.statvfs(image.parent)
        spare = below.f_bavail * below.f_frsize
        total, free = min(total, total - free + spare), min(free, spare)
    return total, free
