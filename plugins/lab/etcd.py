"""The part of etcd that the API server's storage needs, in one SQLite file: keys, values, revisions."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from plugins.lab.errors import LabError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    key TEXT PRIMARY KEY, value BLOB NOT NULL,
    create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY CHECK (id = 1), current INTEGER NOT NULL);
INSERT OR IGNORE INTO revision VALUES (1, 1);
"""


class Conflict(LabError):
    """The key was changed, made or removed meanwhile."""


@dataclass(frozen=True)
class KeyValue:
    """A key with its value and the revision of its last change."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    version: int


class Etcd:
    """Compare-and-swap on keys; every change has a revision of its own, counted over the whole store."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            self._db.close()

    def get(self, key: str) -> KeyValue | None:
        """One key."""
        rows = self._select("WHERE key = ?", key)
        return rows[0] if rows else None

    def range(self, prefix: str) -> list[KeyValue]:
        """All keys that begin with prefix, in order."""
        return self._select("WHERE substr(key, 1, length(?1)) = ?1", prefix)

    def put(self, key: str, value: bytes, *, expected: int) -> KeyValue:
        """Write if the key is still at the revision that was read.

        Args:
            expected: its mod_revision; 0: it must not exist.

        Raises:
            Conflict: it is not.
        """
        with self._guard:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._expect(key, expected)
                revision = self._advance()
                self._db.execute(
                    "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, 1) ON CONFLICT (key) DO UPDATE SET "
                    "value = excluded.value, mod_revision = excluded.mod_revision, version = version + 1",
                    (key, value, revision),
                )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        stored = self.get(key)
        assert stored is not None
        return stored

    def delete(self, key: str) -> bool:
        """Remove a key; whether it was there."""
        with self._guard:
            self._db.execute("BEGIN IMMEDIATE")
            removed = self._db.execute("DELETE FROM kv WHERE key = ?", (key,)).rowcount > 0
            self._advance()
            self._db.execute("COMMIT")
        return removed

    def _select(self, where: str, parameter: str) -> list[KeyValue]:
        with self._guard:
            rows = self._db.execute(
                f"SELECT key, value, mod_revision, create_revision, version FROM kv {where} ORDER BY key", (parameter,)
            ).fetchall()
        return [KeyValue(*row) for row in rows]

    def _expect(self, key: str, revision: int) -> None:
        row = self._db.execute("SELECT mod_revision FROM kv WHERE key = ?", (key,)).fetchone()
        found = row[0] if row else 0
        if found != revision:
            raise Conflict(f"{key} is at revision {found}, not {revision}")

    def _advance(self) -> int:
        return int(self._db.execute("UPDATE revision SET current = current + 1 RETURNING current").fetchone()[0])
