"""Commands for people: `nodeplug csi volumes`."""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugins.core.errors import ConfigError, NotFound
from plugins.core.plugin import state_dir
from plugins.core.units import Bytes
from plugins.csi import config as settings
from plugins.csi.config import CsiConfig
from plugins.csi.host import mountinfo

_COLUMNS = ("ID", "NAME", "SIZE", "ON DISK", "FORMAT", "STAGED AT", "PUBLISHED AT")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    from plugins.core.cli import add_config_options

    volumes = commands.add_parser("volumes", help="list the volumes of this node; the daemon may be running or not")
    add_config_options(volumes)
    volumes.add_argument("--output", choices=("table", "json"), default="table")
    volumes.set_defaults(run=_volumes)


def describe_pool(config: CsiConfig) -> str:
    """One line about where volumes will lie; looks only.

    Raises:
        ConfigError: the directory cannot be a pool, and none may be made.
    """
    path, image = settings.pool_path(config), settings.pool_image(config)
    if image.exists():
        return f"embedded pool {image}, mounted at {path}"
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    mount = mountinfo.containing(mountinfo.read(), there.resolve())
    filesystem = mount.filesystem if mount else "unknown"
    if filesystem in ("xfs", "btrfs"):
        return f"pool {path} on {filesystem}, if that shares blocks (tried at the start)"
    if not config.embedded:
        raise ConfigError(f"the pool {path} lies on {filesystem}, which cannot share blocks, and embedded = false")
    return f"pool {path} on {filesystem}: an embedded pool of {config.embedded_size} will be made in {image}"


def _volumes(args: argparse.Namespace) -> int:
    from plugins.core.cli import load_config
    from plugins.csi.wiring import SPEC

    config = load_config(SPEC, args)
    rows = _read(state_dir(config, "csi") / "state.db", settings.pool_path(config) / "volumes")
    if args.output == "json":
        print(json.dumps({"volumes": rows}, indent=2))
    else:
        _print_table([_cells(row) for row in rows])
    return 0


def _read(file: Path, images: Path) -> list[dict[str, Any]]:
    """The volumes as recorded. The file is opened for reading only, beside a daemon that may be writing."""
    if not file.exists():
        raise NotFound(f"there is no state file {file}: has the daemon ever run?")
    db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    try:
        staged = dict(db.execute("SELECT volume_id, path FROM stagings"))
        published: dict[str, list[str]] = {}
        for volume_id, target in db.execute("SELECT volume_id, target FROM publications ORDER BY target"):
            published.setdefault(volume_id, []).append(target)
        rows = db.execute("SELECT * FROM volumes ORDER BY seq").fetchall()
    finally:
        db.close()
    return [
        {
            "id": row["id"],
            "name": row["name"],
            "size_bytes": row["size"],
            "allocated_bytes": _allocated(images / f"{row['token']}.img"),
            "format": row["fs"] or "raw",
            "staged_at": staged.get(row["id"]),
            "published_at": published.get(row["id"], []),
        }
        for row in rows
    ]


def _allocated(image: Path) -> int | None:
    try:
        return image.stat().st_blocks * 512
    except OSError:
        return None  # the pool is not mounted here, or is not ours to see


def _cells(row: dict[str, Any]) -> list[str]:
    allocated = row["allocated_bytes"]
    return [
        row["id"],
        row["name"],
        str(Bytes(row["size_bytes"])),
        "-" if allocated is None else str(Bytes(allocated)),
        row["format"],
        row["staged_at"] or "-",
        " ".join(row["published_at"]) or "-",
    ]


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    table = [_COLUMNS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
