"""What a daemon must remember across a crash: one SQLite file, WAL, synchronous=FULL.

A commit that returned survives power loss. An *intent* is a row that says what is about to be done, for work whose
traces the kernel cannot explain afterwards; start-up finds the open ones and finishes or undoes them.

Versions: the file carries its schema version and the oldest version that can still work with it. A migration that
only adds (tables, columns with a default) keeps the previous release able to open the file, so that a roll-back of
the daemon is possible at any time.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.core.errors import ConfigError, ResourceExhausted

Row = sqlite3.Row
Params = Sequence[Any]

_PAGE_BYTES = 4096  # SQLite's default
_LOG_PAGES = 128  # of the log between two checkpoints: about fifty commits

_CORE_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intents (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, data TEXT NOT NULL, created REAL NOT NULL,
    UNIQUE (kind, key));
"""


@dataclass(frozen=True)
class Migration:
    """One step of the schema: from version `to - 1` to version `to`.

    sql: statements, run in one transaction with the version number.
    compatible_from: the oldest schema version whose code can still use a file of version `to`.
    """

    to: int
    sql: str
    compatible_from: int


@dataclass(frozen=True)
class Intent:
    """Work that was announced and not settled. `data` is what the announcer needs to finish or undo it."""

    id: int
    kind: str
    key: str
    data: dict[str, Any]
    created: float


class Store:
    """One connection, shared by all threads; each statement or transaction holds it for a moment only."""

    def __init__(self, path: Path, migrations: Sequence[Migration] = ()) -> None:
        """Open or create the file and bring its schema up to date.

        Raises:
            ConfigError: the file belongs to a newer release that says it is not compatible, or is not a database.
        """
        self.path = path
        self._guard = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.execute("PRAGMA cache_size=-512")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
            with self.transaction() as db:
                for statement in _statements(_CORE_SCHEMA):
                    db.execute(statement)
                _migrate(db, migrations, path)
            with contextlib.suppress(ResourceExhausted):  # it only saves time, and a full disk must not end a daemon
                self._extend_log()
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"the state file {path} cannot be used: {error}; move it away to start empty, or restore it"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside the block is committed durably at its end, or nothing if it raises. May be nested.

        Raises:
            ResourceExhausted: the filesystem is full.
        """
        with self._guard:
            if self._db.in_transaction:
                yield self._db
                return
            with self._fullness_said():
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    self._undo()
                    raise

    def _undo(self) -> None:
        """End a transaction, unless SQLite did so by itself, as it does when the disk is full."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _fullness_said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise ResourceExhausted(
                    "the filesystem of this daemon's state is full; nothing was changed", detail=f"{self.path}: {error}"
                ) from error
            raise

    def execute(self, sql: str, params: Params = ()) -> int:
        """One statement, committed; returns the number of rows that it changed."""
        with self.transaction() as db:
            return db.execute(sql, params).rowcount

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows of a query."""
        with self._guard:
            return self._db.execute(sql, params).fetchall()

    def one(self, sql: str, params: Params = ()) -> Row | None:
        """The first row of a query, or None."""
        with self._guard:
            row: Row | None = self._db.execute(sql, params).fetchone()
            return row

    def _extend_log(self) -> None:
        """Let the log have its full size now, so that no commit has to make the file longer.

        A commit that overwrites costs one flush of data; one that appends also makes the filesystem commit the new
        length to its journal, which takes twice as long or more. SQLite starts the log over after each checkpoint and
        leaves its length.
        """
        with self.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS ballast (bytes BLOB)")
            db.execute("INSERT INTO ballast VALUES (zeroblob(?))", (_LOG_PAGES * _PAGE_BYTES,))
        self.execute("DELETE FROM ballast")
        self._db.execute("PRAGMA wal_checkpoint(RESTART)")

    def announce(self, kind: str, key: str, **data: Any) -> Intent:
        """Write an intent. The same (kind, key) announced again replaces the data and keeps the id."""
        now = time.time()
        with self.transaction() as db:
            db.execute(
                "INSERT INTO intents (kind, key, data, created) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, key) DO UPDATE SET data = excluded.data",
                (kind, key, json.dumps(data), now),
            )
            row = db.execute("SELECT id, created FROM intents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return Intent(row["id"], kind, key, data, row["created"])

    def settle(self, intent: Intent) -> None:
        """Forget an intent. Inside the transaction that records the result, both happen or neither."""
        self.execute("DELETE FROM intents WHERE id = ?", (intent.id,))

    def intents(self, kind: str | None = None) -> list[Intent]:
        """The open intents, oldest first."""
        rows = self.all("SELECT * FROM intents WHERE ?1 IS NULL OR kind = ?1 ORDER BY id", (kind,))
        return [Intent(r["id"], r["kind"], r["key"], json.loads(r["data"]), r["created"]) for r in rows]

    def close(self) -> None:
        """Write the log back into the file and close it. Afterwards another process may open it alone."""
        with self._guard, contextlib.suppress(sqlite3.ProgrammingError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()


def _meta(db: sqlite3.Connection, name: str, default: int) -> int:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row["value"]) if row else default


def _migrate(db: sqlite3.Connection, migrations: Sequence[Migration], path: Path) -> None:
    version = _meta(db, "version", 0)
    known = max((m.to for m in migrations), default=0)
    if version > known and _meta(db, "compatible_from", 0) > known:
        raise ConfigError(
            f"the state file {path} has schema version {version}, this release knows {known}: start the newer release"
        )
    for step in sorted(migrations, key=lambda m: m.to):
        if step.to <= version:
            continue
        for statement in _statements(step.sql):
            db.execute(statement)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('version', ?)", (str(step.to),))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('compatible_from', ?)", (str(step.compatible_from),))


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. sqlite3.executescript would commit the open transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError(f"incomplete SQL statement: {statement.strip()[:80]!r}")
