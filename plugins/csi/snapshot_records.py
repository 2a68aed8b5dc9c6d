"""What is remembered of snapshots and groups: rows in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plugins.core.store import Intent, Migration, Row, Store
from plugins.csi.snapshot_model import Group, Snapshot

MIGRATION = Migration(
    to=2,
    compatible_from=1,
    sql="""
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, token TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
    source_id TEXT NOT NULL, size INTEGER NOT NULL, held INTEGER NOT NULL, fs TEXT NOT NULL, created INTEGER NOT NULL,
    group_id TEXT NOT NULL DEFAULT '');
CREATE INDEX snapshots_by_source ON snapshots (source_id, seq);
CREATE INDEX snapshots_by_group ON snapshots (group_id) WHERE group_id <> '';
CREATE TABLE groups (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL) WITHOUT ROWID;
ALTER TABLE volumes ADD COLUMN source TEXT NOT NULL DEFAULT '';
""",
)

_COLUMNS = ("id", "token", "name", "source_id", "size", "held", "fs", "created", "group_id")
_INSERT = f"INSERT INTO snapshots ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class SnapshotRecords:
    """The tables of snapshots and groups."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def snapshot(self, snapshot_id: str) -> Snapshot | None:
        """A snapshot by id."""
        row = self._store.one("SELECT * FROM snapshots WHERE id = ?", (snapshot_id,))
        return _snapshot(row) if row else None

    def named(self, name: str) -> Snapshot | None:
        """A snapshot by the name that its creator gave."""
        row = self._store.one("SELECT * FROM snapshots WHERE name = ?", (name,))
        return _snapshot(row) if row else None

    def snapshots(self, after: int = 0, limit: int = -1, source_id: str = "", snapshot_id: str = "") -> list[Snapshot]:
        """Snapshots in the order of their creation, from the first one after `after`; empty filters match all."""
        wheres: list[str] = ["seq > ?"]
        values: list[Any] = [after]
        for column, value in (("source_id", source_id), ("id", snapshot_id)):
            if value:
                wheres.append(f"{column} = ?")
                values.append(value)
        sql = f"SELECT * FROM snapshots WHERE {' AND '.join(wheres)} ORDER BY seq LIMIT ?"
        return [_snapshot(row) for row in self._store.all(sql, (*values, limit))]

    def tokens(self) -> set[str]:
        """The tokens of all snapshots."""
        return {row["token"] for row in self._store.all("SELECT token FROM snapshots")}

    def held(self, source_id: str) -> int:
        """Bytes of the largest snapshot of a volume."""
        row = self._store.one("SELECT COALESCE(MAX(held), 0) AS most FROM snapshots WHERE source_id = ?", (source_id,))
        return int(row["most"]) if row else 0

    def all_held(self) -> int:
        """The sum of that over all volumes: a look at every snapshot, for start-up."""
        row = self._store.one(
            "SELECT COALESCE(SUM(most), 0) AS total FROM (SELECT MAX(held) AS most FROM snapshots GROUP BY source_id)"
        )
        return int(row["total"]) if row else 0

    def add(self, snapshot: Snapshot, intent: Intent) -> None:
        """Record a snapshot that exists now; settles its intent in the same commit. `seq` is not used."""
        with self._store.transaction():
            self._store.execute(_INSERT, _values(snapshot))
            self._store.settle(intent)

    def remove(self, snapshot_id: str, intent: Intent) -> None:
        """Forget a snapshot; settles the intent."""
        with self._store.transaction():
            self._store.execute("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))
            self._store.settle(intent)

    def group(self, group_id: str) -> Group | None:
        """A group by id, with its members."""
        return self._group(self._store.one("SELECT * FROM groups WHERE id = ?", (group_id,)))

    def group_named(self, name: str) -> Group | None:
        """A group by the name that its creator gave, with its members."""
        return self._group(self._store.one("SELECT * FROM groups WHERE name = ?", (name,)))

    def add_group(self, group: Group, intent: Intent) -> None:
        """Record a group with all its members, or nothing; settles the intent."""
        with self._store.transaction():
            self._store.execute("INSERT INTO groups VALUES (?, ?, ?)", (group.id, group.name, group.created))
            for member in group.members:
                self._store.execute(_INSERT, _values(member))
            self._store.settle(intent)

    def remove_group(self, group_id: str, intent: Intent) -> None:
        """Forget a group and its members; settles the intent."""
        with self._store.transaction():
            self._store.execute("DELETE FROM snapshots WHERE group_id = ?", (group_id,))
            self._store.execute("DELETE FROM groups WHERE id = ?", (group_id,))
            self._store.settle(intent)

    def announce(self, kind: str, key: str, tokens: Sequence[str], volumes: Sequence[str] = ()) -> Intent:
        """Say what is about to be made or removed.

        Args:
            tokens: of the images.
            volumes: ids of those whose filesystems will be frozen for it.
        """
        return self._store.announce(kind, key, tokens=list(tokens), volumes=list(volumes))

    def settle(self, intent: Intent) -> None:
        """It was undone, or needs nothing more."""
        self._store.settle(intent)

    def _group(self, row: Row | None) -> Group | None:
        if row is None:
            return None
        rows = self._store.all("SELECT * FROM snapshots WHERE group_id = ? ORDER BY seq", (row["id"],))
        return Group(row["id"], row["name"], row["created"], tuple(_snapshot(member) for member in rows))


def _values(snapshot: Snapshot) -> tuple[Any, ...]:
    return tuple(getattr(snapshot, column) for column in _COLUMNS)


def _snapshot(row: Row) -> Snapshot:
    return Snapshot(row["seq"], *(row[column] for column in _COLUMNS))
