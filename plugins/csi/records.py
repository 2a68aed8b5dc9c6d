"""What is remembered of volumes: rows in, values out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from plugins.core.store import Intent, Migration, Row, Store
from plugins.csi import snapshot_records
from plugins.csi.model import PROVISIONING, AccessMode, Publication, Staging, Volume

MIGRATIONS = (
    Migration(
        to=1,
        compatible_from=1,
        sql="""
CREATE TABLE volumes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, token TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL, fs TEXT NOT NULL, fs_given INTEGER NOT NULL, block INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0, parameters TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE stagings (
    volume_id TEXT PRIMARY KEY, path TEXT NOT NULL, block INTEGER NOT NULL, fs TEXT NOT NULL, flags TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE publications (
    volume_id TEXT NOT NULL, target TEXT NOT NULL, read_only INTEGER NOT NULL, mode INTEGER NOT NULL,
    flags TEXT NOT NULL, PRIMARY KEY (volume_id, target)) WITHOUT ROWID;
CREATE TABLE pool (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    ),
    snapshot_records.MIGRATION,
    Migration(
        to=3,
        compatible_from=1,
        sql="""
ALTER TABLE volumes ADD COLUMN mutable TEXT NOT NULL DEFAULT '{}';
CREATE TABLE attachments (
    volume_id TEXT PRIMARY KEY, read_only INTEGER NOT NULL, block INTEGER NOT NULL, mode INTEGER NOT NULL)
    WITHOUT ROWID;
""",
    ),
)


class Records:
    """The tables of `nodeplug csi`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def volume(self, volume_id: str) -> Volume | None:
        """A volume by id."""
        row = self._store.one("SELECT * FROM volumes WHERE id = ?", (volume_id,))
        return _volume(row) if row else None

    def named(self, name: str) -> Volume | None:
        """A volume by the name that its creator gave."""
        row = self._store.one("SELECT * FROM volumes WHERE name = ?", (name,))
        return _volume(row) if row else None

    def volumes(self, after: int = 0, limit: int = -1) -> list[Volume]:
        """Volumes in the order of their creation, from the first one after `after`; limit -1: all."""
        rows = self._store.all("SELECT * FROM volumes WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [_volume(row) for row in rows]

    def tokens(self) -> set[str]:
        """The tokens of all volumes."""
        return {row["token"] for row in self._store.all("SELECT token FROM volumes")}

    def promised(self) -> int:
        """Sum of the sizes of all volumes in bytes."""
        row = self._store.one("SELECT COALESCE(SUM(size), 0) AS total FROM volumes")
        return int(row["total"]) if row else 0

    def thick(self) -> int:
        """Sum of the sizes of thick volumes in bytes: a look at every volume, for start-up."""
        row = self._store.one(
            "SELECT COALESCE(SUM(size), 0) AS total FROM volumes "
            f"WHERE json_extract(parameters, '$.{PROVISIONING}') = 'thick'"
        )
        return int(row["total"]) if row else 0

    def add(self, volume: Volume, intent: Intent | None = None) -> None:
        """Record a volume that exists now; settles its intent in the same commit. `volume.seq` is not used."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT INTO volumes (id, token, name, size, fs, fs_given, block, used, parameters, created, source, "
                "mutable) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(volume.id, volume.token, volume.name, volume.size, volume.fs, volume.fs_given, volume.block),
                    *(volume.used, json.dumps(dict(volume.parameters), sort_keys=True), volume.created, volume.source),
                    json.dumps(dict(volume.mutable), sort_keys=True),
                ),
            )
            if intent:
                self._store.settle(intent)

    def remove(self, volume_id: str, intent: Intent) -> None:
        """Forget a volume and everything about it; settles its intent."""
        with self._store.transaction() as db:
            for table in ("publications", "stagings", "attachments"):
                db.execute(f"DELETE FROM {table} WHERE volume_id = ?", (volume_id,))
            db.execute("DELETE FROM volumes WHERE id = ?", (volume_id,))
            self._store.settle(intent)

    def retype(self, volume_id: str, fs: str, intent: Intent) -> None:
        """Record the filesystem that an unused volume has now."""
        with self._store.transaction() as db:
            db.execute("UPDATE volumes SET fs = ?, fs_given = 1 WHERE id = ?", (fs, volume_id))
            self._store.settle(intent)

    def resize(self, volume_id: str, size: int, intent: Intent) -> None:
        """Record the size in bytes that a volume's image has now; settles the intent."""
        with self._store.transaction() as db:
            db.execute("UPDATE volumes SET size = ? WHERE id = ?", (size, volume_id))
            self._store.settle(intent)

    def set_mutable(self, volume_id: str, mutable: Mapping[str, str]) -> None:
        """Record the parameters of a volume that may change."""
        text = json.dumps(dict(mutable), sort_keys=True)
        self._store.execute("UPDATE volumes SET mutable = ? WHERE id = ?", (text, volume_id))

    def announce(self, kind: str, volume_id: str, **data: str) -> Intent:
        """Say what is about to be done to a volume."""
        return self._store.announce(kind, volume_id, **data)

    def settle(self, intent: Intent) -> None:
        """It was undone, or needs nothing more."""
        self._store.settle(intent)

    def intents(self) -> list[Intent]:
        """What was announced and neither done nor undone."""
        return self._store.intents()

    def under_way(self, token: str) -> bool:
        """Whether something was announced and not settled that makes or removes an image."""
        return any(token in (*intent.data.get("tokens", ()), intent.data.get("token")) for intent in self.intents())

    def staging(self, volume_id: str) -> Staging | None:
        """Where a volume is staged."""
        row = self._store.one("SELECT * FROM stagings WHERE volume_id = ?", (volume_id,))
        return _staging(row) if row else None

    def stagings(self) -> list[Staging]:
        """All of them."""
        return [_staging(row) for row in self._store.all("SELECT * FROM stagings")]

    def stage(self, staging: Staging) -> None:
        """Record a staging; from now on the volume counts as used."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO stagings VALUES (?, ?, ?, ?, ?)",
                (staging.volume_id, staging.path, staging.block, staging.fs, json.dumps(staging.flags)),
            )
            db.execute("UPDATE volumes SET used = 1 WHERE id = ? AND used = 0", (staging.volume_id,))

    def unstage(self, volume_id: str) -> None:
        """Forget a staging, and publications that a reboot had ended before."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM stagings WHERE volume_id = ?", (volume_id,))
            db.execute("DELETE FROM publications WHERE volume_id = ?", (volume_id,))

    def publications(self, volume_id: str) -> list[Publication]:
        """Where a volume is shown."""
        rows = self._store.all("SELECT * FROM publications WHERE volume_id = ?", (volume_id,))
        return [_publication(row) for row in rows]

    def all_publications(self) -> list[Publication]:
        """Where any volume is shown."""
        return [_publication(row) for row in self._store.all("SELECT * FROM publications")]

    def publish(self, publication: Publication) -> None:
        """Record a publication."""
        self._store.execute(
            "INSERT OR REPLACE INTO publications VALUES (?, ?, ?, ?, ?)",
            (
                *(publication.volume_id, publication.target, publication.read_only, int(publication.mode)),
                json.dumps(publication.flags),
            ),
        )

    def unpublish(self, volume_id: str, target: str) -> None:
        """Forget a publication."""
        self._store.execute("DELETE FROM publications WHERE volume_id = ? AND target = ?", (volume_id, target))

    def fact(self, name: str) -> str | None:
        """A fact about the pool."""
        row = self._store.one("SELECT value FROM pool WHERE name = ?", (name,))
        return str(row["value"]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Record a fact about the pool, if it is news."""
        if self.fact(name) != value:
            self._store.execute("INSERT OR REPLACE INTO pool VALUES (?, ?)", (name, value))


def _volume(row: Row) -> Volume:
    return Volume(
        seq=row["seq"],
        id=row["id"],
        token=row["token"],
        name=row["name"],
        size=row["size"],
        fs=row["fs"],
        fs_given=bool(row["fs_given"]),
        block=bool(row["block"]),
        used=bool(row["used"]),
        parameters=json.loads(row["parameters"]),
        created=row["created"],
        source=row["source"],
        mutable=json.loads(row["mutable"]),
    )


def _staging(row: Row) -> Staging:
    return Staging(row["volume_id"], row["path"], bool(row["block"]), row["fs"], tuple(json.loads(row["flags"])))


def _publication(row: Row) -> Publication:
    mode = AccessMode(row["mode"])
    return Publication(row["volume_id"], row["target"], bool(row["read_only"]), mode, tuple(json.loads(row["flags"])))
