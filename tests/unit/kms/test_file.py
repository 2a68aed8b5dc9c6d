"""The keyring file: replaced as a whole, by one command at a time, at any instruction killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.core.errors import Aborted, AlreadyExists, ConfigError
from plugins.kms import document
from plugins.kms.document import Document
from plugins.kms.providers import file
from tests.unit.kms import kit

ROOT = Path(__file__).resolve().parents[3]
US = frozenset((0, os.geteuid()))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other users")


@pytest.fixture
def keyring(short_tmp: Path) -> Path:
    path = short_tmp / "keys" / "keyring.json"
    file.create(path, kit.made(), -1, -1)
    return path


def rotate(doc: Document) -> Document:
    return document.rotate(doc, kit.NOW)


def test_what_is_made_is_safe_and_read(keyring: Path) -> None:
    assert (keyring.stat().st_mode & 0o777, keyring.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert file.read(keyring, US).generation == 1
    assert file.FileProvider(keyring).load().generation == 1
    assert os.listdir(keyring.parent) == ["keyring.json"]


def test_an_existing_file_is_never_overwritten(keyring: Path) -> None:
    before = keyring.read_bytes()
    with pytest.raises(AlreadyExists, match="never overwritten"):
        file.create(keyring, kit.made(), -1, -1)
    assert keyring.read_bytes() == before
    assert os.listdir(keyring.parent) == ["keyring.json"]


def test_a_change_is_a_new_file_with_the_old_mode(keyring: Path) -> None:
    keyring.chmod(0o400)
    before = keyring.stat()
    changed = file.change(keyring, rotate)
    after = keyring.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert file.read(keyring, US) == changed
    assert os.listdir(keyring.parent) == ["keyring.json"]


@needs_root
def test_the_owner_stays_the_daemons_user(keyring: Path) -> None:
    os.chown(keyring.parent, 4711, 4712)
    os.chown(keyring, 4711, 4712)
    file.change(keyring, rotate)
    assert (keyring.stat().st_uid, keyring.stat().st_gid) == (4711, 4712)


@needs_root
def test_init_for_the_daemons_user(short_tmp: Path) -> None:
    path = short_tmp / "etc" / "kms" / "keyring.json"
    file.create(path, kit.made(), 4711, 4712)
    for place in (path, path.parent):
        assert (place.stat().st_uid, place.stat().st_gid) == (4711, 4712)
    assert path.parent.parent.stat().st_uid == 0


def test_a_change_that_fails_changes_nothing(keyring: Path) -> None:
    before = keyring.read_bytes()
    with pytest.raises(ConfigError, match="no key is staged"):
        file.change(keyring, lambda doc: document.activate(doc, kit.NOW))
    assert keyring.read_bytes() == before
    assert os.listdir(keyring.parent) == ["keyring.json"]


def test_a_second_command_does_not_wait(keyring: Path) -> None:
    folder = os.open(keyring.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(Aborted, match="another command"):
            file.change(keyring, rotate)
    finally:
        os.close(folder)
    assert file.change(keyring, rotate).generation == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * ((1 << 20) + 1)], ids=["empty", "other", "huge"])
def test_what_is_no_keyring_is_refused_by_name(keyring: Path, content: bytes) -> None:
    keyring.write_bytes(content)
    with pytest.raises(ConfigError, match=str(keyring)):
        file.FileProvider(keyring).load()


def test_a_missing_keyring_is_answered_with_how_to_get_one(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match="kms init"):
        file.read(short_tmp / "keyring.json", US)
    with pytest.raises(ConfigError, match="kms init"):
        file.change(short_tmp / "no" / "keyring.json", rotate)


def test_identity_moves_with_content_mode_and_file(keyring: Path) -> None:
    provider = file.FileProvider(keyring)
    seen = [provider.identity()]
    keyring.chmod(0o400)
    seen.append(provider.identity())
    file.change(keyring, rotate)
    seen.append(provider.identity())
    keyring.unlink()
    seen.append(provider.identity())
    assert len(set(seen)) == 4
    assert provider.identity() == seen[-1]


@pytest.mark.parametrize(("point", "generation"), [("kms.keyring.written", 1), ("kms.keyring.renamed", 2)])
def test_killed_while_rotating(keyring: Path, point: str, generation: int) -> None:
    command = [sys.executable, "-m", "plugins", "kms", "rotate", "--keyring", str(keyring)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "NODEPLUG_FAULT": point}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert file.read(keyring, US).generation == generation
    assert all((keyring.parent / name).stat().st_mode & 0o077 == 0 for name in os.listdir(keyring.parent))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert file.read(keyring, US).generation == generation + 1
    assert os.listdir(keyring.parent) == ["keyring.json"]


def test_killed_while_making_the_first(short_tmp: Path) -> None:
    path = short_tmp / "keyring.json"
    command = [sys.executable, "-m", "plugins", "kms", "init", "--keyring", str(path)]
    env = {**os.environ, "NODEPLUG_FAULT": "kms.keyring.written"}
    assert subprocess.run(command, cwd=ROOT, env=env, capture_output=True).returncode == -signal.SIGKILL
    assert not path.exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert json.loads(path.read_text())["generation"] == 1
    assert os.listdir(short_tmp) == ["keyring.json"]
