"""The store: durable, all or nothing, versioned both ways, and intents that outlive the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plugins.core.errors import ConfigError, ResourceExhausted
from plugins.core.store import Migration, Store

FIRST = Migration(1, "CREATE TABLE volumes (id TEXT PRIMARY KEY);", compatible_from=1)
ADDS = Migration(2, "ALTER TABLE volumes ADD COLUMN size INTEGER NOT NULL DEFAULT 0;", compatible_from=1)
BREAKS = Migration(3, "ALTER TABLE volumes RENAME COLUMN size TO bytes;", compatible_from=3)


def ids(store: Store) -> list[str]:
    return [row["id"] for row in store.all("SELECT id FROM volumes ORDER BY id")]


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", [FIRST])
    store.execute("INSERT INTO volumes VALUES ('kept')")
    with pytest.raises(ZeroDivisionError), store.transaction() as db:
        db.execute("INSERT INTO volumes VALUES ('lost')")
        store.announce("create", "lost")
        raise ZeroDivisionError
    assert ids(store) == ["kept"]
    assert store.intents() == []


def test_an_intent_is_settled_together_with_its_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", [FIRST])
    intent = store.announce("create", "v1", path="/pool/v1")
    again = store.announce("create", "v1", path="/pool/v1b")
    assert (again.id, [i.data for i in store.intents("create")]) == (intent.id, [{"path": "/pool/v1b"}])
    with store.transaction() as db:
        db.execute("INSERT INTO volumes VALUES ('v1')")
        store.settle(intent)
    assert store.intents() == []
    assert store.intents("delete") == []


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from plugins.core.store import *\n"
        "s = Store(Path(sys.argv[1]), [Migration(1, 'CREATE TABLE volumes (id TEXT PRIMARY KEY);', 1)])\n"
        "s.execute(\"INSERT INTO volumes VALUES ('v1')\"); s.announce('delete', 'v1')\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "s.db"], check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path / "s.db", [FIRST])
    assert ids(store) == ["v1"]
    assert [(i.kind, i.key) for i in store.intents()] == [("delete", "v1")]


def test_the_previous_release_opens_a_file_that_only_grew(tmp_path: Path) -> None:
    Store(tmp_path / "s.db", [FIRST, ADDS]).close()
    old = Store(tmp_path / "s.db", [FIRST])
    old.execute("INSERT INTO volumes (id) VALUES ('by the old release')")
    old.close()
    new = Store(tmp_path / "s.db", [FIRST, ADDS])
    assert new.one("SELECT size FROM volumes")["size"] == 0  # type: ignore[index]


def test_the_previous_release_refuses_a_file_that_it_would_misread(tmp_path: Path) -> None:
    Store(tmp_path / "s.db", [FIRST, ADDS, BREAKS]).close()
    with pytest.raises(ConfigError, match="schema version 3, this release knows 2"):
        Store(tmp_path / "s.db", [FIRST, ADDS])


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "s.db", [FIRST]).close()
    wrong = Migration(2, "CREATE TABLE other (id TEXT);\nCREATE TABLE volumes (id TEXT);", compatible_from=1)
    with pytest.raises(ConfigError):
        Store(tmp_path / "s.db", [FIRST, wrong])
    store = Store(tmp_path / "s.db", [FIRST])
    assert store.one("SELECT name FROM sqlite_master WHERE name = 'other'") is None


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    file.write_bytes(b"not a database, but somebody's data " * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        Store(file, [FIRST])
    assert file.read_bytes().startswith(b"not a database")


def test_threads_share_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", [FIRST])

    def insert(number: int) -> None:
        for step in range(20):
            store.execute("INSERT INTO volumes VALUES (?)", (f"{number}-{step}",))

    threads = [threading.Thread(target=insert, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids(store)) == 160


def test_it_is_as_durable_as_it_says(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    assert store.one("PRAGMA synchronous")[0] == 2  # type: ignore[index]
    assert store.one("PRAGMA journal_mode")[0] == "wal"  # type: ignore[index]
    store.close()
    assert not os.path.exists(tmp_path / "s.db-wal")
    assert sqlite3.connect(tmp_path / "s.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_no_commit_makes_the_log_longer(tmp_path: Path) -> None:
    """A commit that appends costs twice as much as one that overwrites."""
    store = Store(tmp_path / "s.db", [FIRST])
    log = tmp_path / "s.db-wal"
    size = log.stat().st_size
    assert size >= 128 * 4096
    for number in range(300):
        store.execute("INSERT INTO volumes VALUES (?)", (f"volume {number}",))
        assert log.stat().st_size == size


def test_a_full_disk_is_said_and_leaves_nothing_open(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", [FIRST])
    pages = store.all("PRAGMA page_count")[0][0]
    store._db.execute(f"PRAGMA max_page_count={pages}")  # SQLite then answers as on a full filesystem
    with pytest.raises(ResourceExhausted, match="full"):
        for number in range(2000):
            store.announce("create", f"{number}", text="x" * 2000)
    kept = len(store.intents())
    store._db.execute("PRAGMA max_page_count=100000")
    store.announce("create", "after")
    other = sqlite3.connect(tmp_path / "s.db")  # sees only what was committed
    assert other.execute("SELECT COUNT(*) FROM intents").fetchone() == (kept + 1,)
    other.close()
    store.close()
