"""The state file, read by tools beside a daemon that may be writing, or after one that has ended. Never written."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """One moment of the records, rows as they are. busy: tokens and ids that an announced operation is about."""

    volumes: list[Row] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    stagings: dict[str, Row] = field(default_factory=dict)
    publications: list[Row] = field(default_factory=list)
    intents: list[Row] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def promised(self) -> int:
        """Bytes of all volumes, and what snapshots hold: of each volume the largest (see `capacity`)."""
        held: dict[str, int] = {}
        for row in self.snapshots:
            held[row["source_id"]] = max(held.get(row["source_id"], 0), row["held"])
        sizes: list[int] = [row["size"] for row in self.volumes]
        return sum(sizes) + sum(held.values())

    def announced(self, text: str) -> bool:
        """Whether an open intent is about this token or id."""
        return any(text == row["key"] or text in row["data"] for row in self.intents)


def read(file: Path) -> Ledger:
    """Everything at one moment; an empty one where there is no file.

    Raises:
        sqlite3.Error: the file is none of ours.
    """
    if not file.exists():
        return Ledger()
    with _opened(file) as db:
        db.execute("BEGIN")  # one snapshot for all the queries
        tables = {row["name"] for row in _rows(db, "SELECT name FROM sqlite_master WHERE type = 'table'")}
        return Ledger(
            volumes=_rows(db, "SELECT * FROM volumes ORDER BY seq"),
            snapshots=_rows(db, "SELECT * FROM snapshots ORDER BY seq") if "snapshots" in tables else [],
            stagings={row["volume_id"]: row for row in _rows(db, "SELECT * FROM stagings")},
            publications=_rows(db, "SELECT * FROM publications ORDER BY target"),
            intents=_rows(db, "SELECT * FROM intents ORDER BY id"),
            facts={row["name"]: row["value"] for row in _rows(db, "SELECT * FROM pool")},
        )


def served(state_dir: Path) -> bool:
    """Whether a daemon holds the lock of a state directory; asked of the kernel's list, so that nothing is taken."""
    try:
        inode = (state_dir / "lock").stat().st_ino
        with open("/proc/locks", encoding="ascii") as file:
            return any(line.split()[1] == "FLOCK" and line.split()[-3].endswith(f":{inode}") for line in file)
    except OSError:
        return False


def _rows(db: sqlite3.Connection, query: str) -> list[Row]:
    return [dict(row) for row in db.execute(query)]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        yield db
    finally:
        db.close()
