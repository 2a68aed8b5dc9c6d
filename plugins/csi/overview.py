"""The pools of this node as a tool sees them, whether the daemon runs or not. Looks only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from plugins.core.plugin import state_dir
from plugins.csi import config as settings
from plugins.csi import ledger
from plugins.csi.config import CsiConfig
from plugins.csi.host import mountinfo
from plugins.csi.pool import marker, space


@dataclass(frozen=True)
class Template:
    """A ready-made filesystem that is kept. allocated_bytes: of disk."""

    name: str
    allocated_bytes: int


@dataclass(frozen=True)
class PoolView:
    """One pool; numbers in bytes.

    filesystem: of the pool; "" where it is not there, as an embedded one while no daemon runs.
    total, free: None where it is not there.
    promised: to volumes, and to what snapshots hold.
    """

    name: str
    path: str
    image: str | None
    filesystem: str
    total_bytes: int | None
    free_bytes: int | None
    reserve_bytes: int
    promised_bytes: int
    overcommit: float
    volumes: int
    snapshots: int
    templates: tuple[Template, ...]


def pools(config: CsiConfig) -> list[PoolView]:
    """All of them."""
    records = ledger.read(state_dir(config, "csi") / "state.db")
    path, image = settings.pool_path(config), settings.pool_image(config)
    there = (path / marker.NAME).exists()
    embedded = image if image.exists() else None
    total, free = space.of(path, embedded) if there else (None, None)
    mount = mountinfo.containing(mountinfo.read(), path.resolve()) if there else None
    return [
        PoolView(
            name=settings.DEFAULT_POOL,
            path=str(path),
            image=str(embedded) if embedded else None,
            filesystem=mount.filesystem if mount else "",
            total_bytes=total,
            free_bytes=free,
            reserve_bytes=config.reserve,
            promised_bytes=records.promised,
            overcommit=config.overcommit,
            volumes=len(records.volumes),
            snapshots=len(records.snapshots),
            templates=_templates(path / "templates") if there else (),
        )
    ]


def _templates(folder: Path) -> tuple[Template, ...]:
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not e.name.startswith(".")]
            sizes = {e.name: e.stat(follow_symlinks=False).st_blocks * 512 for e in found}
    except FileNotFoundError:
        return ()
    return tuple(Template(name.removesuffix(".img"), sizes[name]) for name in sorted(sizes))
