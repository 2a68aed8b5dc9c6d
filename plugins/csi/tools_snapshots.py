"""Commands for people: `nodeplug csi snapshots`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sqlite3
from pathlib import Path
from typing import Any

from plugins.core.errors import NotFound
from plugins.core.plugin import state_dir
from plugins.core.units import Bytes

_COLUMNS = ("ID", "NAME", "OF VOLUME", "SIZE", "HOLDS", "FORMAT", "TAKEN AT", "GROUP")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    from plugins.core.cli import add_config_options

    snapshots = commands.add_parser(
        "snapshots", help="list the snapshots of this node; the daemon may be running or not"
    )
    add_config_options(snapshots)
    snapshots.add_argument("--output", choices=("table", "json"), default="table")
    snapshots.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from plugins.core.cli import load_config
    from plugins.csi.tools import print_table
    from plugins.csi.wiring import SPEC

    rows = read(state_dir(load_config(SPEC, args), "csi") / "state.db")
    if args.output == "json":
        print(json.dumps({"snapshots": rows}, indent=2))
    else:
        print_table([_COLUMNS, *(_cells(row) for row in rows)])
    return 0


def read(file: Path) -> list[dict[str, Any]]:
    """The snapshots as recorded. The file is opened for reading only, beside a daemon that may be writing.

    Raises:
        NotFound: there is no state, or one of a release without snapshots.
    """
    if not file.exists():
        raise NotFound(f"there is no state file {file}: has the daemon ever run?")
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        try:
            groups = dict(db.execute("SELECT id, name FROM groups").fetchall())
            rows = db.execute("SELECT * FROM snapshots ORDER BY seq").fetchall()
        except sqlite3.OperationalError as error:
            raise NotFound(f"the state file {file} has no snapshots yet: {error}") from error
    return [
        {
            "id": row["id"],
            # A member of a group has no name of its own.
            "name": None if row["group_id"] else row["name"],
            "source_volume_id": row["source_id"],
            "size_bytes": row["size"],
            "held_bytes": row["held"],
            "format": row["fs"] or "raw",
            "created": _time(row["created"]),
            "group_id": row["group_id"] or None,
            "group_name": groups.get(row["group_id"]),
        }
        for row in rows
    ]


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _cells(row: dict[str, Any]) -> list[str]:
    sizes = [str(Bytes(row["size_bytes"])), str(Bytes(row["held_bytes"]))]
    taken, _, _ = row["created"].partition(".")
    start = [row["id"], row["name"] or "-", row["source_volume_id"]]
    return [*start, *sizes, row["format"], f"{taken}Z", row["group_name"] or "-"]
