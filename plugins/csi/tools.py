"""Commands for people: `nodeplug csi volumes | snapshots | pools [init] | doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugins.core.errors import ConfigError, FailedPrecondition, NotFound
from plugins.core.plugin import state_dir
from plugins.core.units import Bytes
from plugins.csi import config as settings
from plugins.csi import tools_snapshots
from plugins.csi.config import CsiConfig
from plugins.csi.host import mountinfo

if TYPE_CHECKING:
    from plugins.csi.doctor.finding import Report
    from plugins.csi.overview import PoolView

_COLUMNS = ("ID", "NAME", "SIZE", "ON DISK", "FORMAT", "STAGED AT", "PUBLISHED AT")
_POOL_COLUMNS = ("POOL", "PATH", "ON", "SIZE", "FREE", "PROMISED", "OVERCOMMIT", "RESERVE", "VOLUMES", "SNAPSHOTS")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands."""
    from plugins.core.cli import add_config_options

    volumes = commands.add_parser("volumes", help="list the volumes of this node; the daemon may be running or not")
    add_config_options(volumes)
    volumes.add_argument("--output", choices=("table", "json"), default="table")
    volumes.set_defaults(run=_volumes)

    tools_snapshots.add(commands)

    pools = commands.add_parser("pools", help="size of the pools, and what of it is promised")
    doctor = commands.add_parser("doctor", help="find what does not fit together, and say what to do; changes nothing")
    for command, run in ((pools, _pools), (doctor, _doctor)):
        add_config_options(command)
        command.add_argument("--output", choices=("table", "json"), default="table")
        command.set_defaults(run=run)

    init = pools.add_subparsers(metavar="ACTION").add_parser(
        "init", help="make a blank disk the filesystem of a pool; refuses where anything shows that it holds data"
    )
    add_config_options(init)
    init.add_argument("--output", choices=("table", "json"), default="table")
    init.add_argument("device", type=Path, metavar="DEVICE", help="the disk, as /dev/disk/by-id/...")
    init.set_defaults(run=_init)


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
        print_table([_COLUMNS, *(_cells(row) for row in rows)])
    return 0


def _pools(args: argparse.Namespace) -> int:
    from plugins.core.cli import load_config
    from plugins.csi import overview
    from plugins.csi.wiring import SPEC

    found = overview.pools(load_config(SPEC, args))
    if args.output == "json":
        print(json.dumps({"pools": [dataclasses.asdict(pool) for pool in found]}, indent=2))
        return 0
    print_table([_POOL_COLUMNS, *(_pool_cells(pool) for pool in found)])
    for pool in found:
        for template in pool.templates:
            print(f"template {template.name} in {pool.name}: {Bytes(template.allocated_bytes)} on disk")
        if pool.total_bytes is None:
            print(f"{pool.name}: the pool is not mounted at {pool.path}; the daemon mounts it when it starts")
    return 0


def _init(args: argparse.Namespace) -> int:
    from plugins.core.cli import load_config
    from plugins.csi.pool import disk, marker
    from plugins.csi.wiring import SPEC

    config = load_config(SPEC, args)
    path, image = settings.pool_path(config).absolute(), settings.pool_image(config)
    for there in (path / marker.NAME, image):
        if there.exists():
            raise FailedPrecondition(f"there is a pool already ({there}); the disk was not touched")
    identity = disk.prepare(args.device)
    if args.output == "json":
        said = {"uuid": identity, "path": str(path), "fstab": disk.fstab(identity, path)}
        print(json.dumps({**said, "unit": disk.unit(identity, path)}, indent=2))
        return 0
    print(f"{args.device} is an XFS filesystem that shares blocks now: UUID {identity}")
    print(f"Mount it before the daemon starts. In /etc/fstab:\n\n{disk.fstab(identity, path)}\n")
    print(f"or as a systemd unit in the file $(systemd-escape --path --suffix=mount {path}):\n")
    print(disk.unit(identity, path))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from plugins.core.cli import load_config
    from plugins.csi.doctor import examine, finding
    from plugins.csi.wiring import SPEC

    config = load_config(SPEC, args)
    path, image = settings.pool_path(config), settings.pool_image(config)
    places = finding.Places(state_dir(config, "csi"), path, image, settings.allowed_roots(config))
    report = examine.examine(places)
    if args.output == "json":
        print(json.dumps({"clean": not report.findings, **dataclasses.asdict(report)}, indent=2))
    else:
        _print_report(report)
    return 1 if report.findings else 0


def _print_report(report: Report) -> None:
    print(f"the daemon {'runs' if report.served else 'does not run'}")
    for note in report.notes:
        print(f"note: {note}")
    if report.findings:
        print_table([("FINDING", "WHERE", "WHAT"), *((f.kind, f.subject, f.message) for f in report.findings)])
        print("what to do:")
    for found in report.findings:
        print(f"  {found.subject}: {found.advice}")
    print(f"{len(report.findings)} found" if report.findings else "nothing found")


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


def _pool_cells(pool: PoolView) -> list[str]:
    total, free = ("-" if n is None else str(Bytes(n)) for n in (pool.total_bytes, pool.free_bytes))
    return [
        *(pool.name, pool.path, pool.filesystem or "-", total, free, str(Bytes(pool.promised_bytes))),
        *(f"{pool.overcommit:g}", str(Bytes(pool.reserve_bytes)), str(pool.volumes), str(pool.snapshots)),
    ]


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Columns, the first row being their names."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
