"""Whether nobody else can reach the keyring, and what is said if somebody can: the exact command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.core.errors import ConfigError
from plugins.kms.providers import file
from tests.unit.kms import kit

US = frozenset((0, os.geteuid()))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other users")


@pytest.fixture
def keyring(short_tmp: Path) -> Path:
    path = short_tmp / "a" / "b" / "keyring.json"
    file.create(path, kit.made(), -1, -1)
    return path


def mended(message: str) -> None:
    """Run the command that a message ends with, as its reader would."""
    subprocess.run(message.rpartition(": ")[2].split(), check=True)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_safe_modes(keyring: Path, mode: int) -> None:
    keyring.chmod(mode)
    file.read(keyring, US)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o644, 0o700, 0o601, 0o4600, 0o2600])
def test_unsafe_modes(keyring: Path, mode: int) -> None:
    keyring.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}.*chmod 0600 ") as caught:
        file.read(keyring, US)
    mended(caught.value.message)
    file.read(keyring, US)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_write_to(keyring: Path, mode: int) -> None:
    keyring.parent.chmod(mode)
    with pytest.raises(ConfigError, match=f"{keyring.parent} of the keyring may be written by others") as caught:
        file.read(keyring, US)
    mended(caught.value.message)
    file.read(keyring, US)


def test_a_folder_further_up_counts_too(keyring: Path) -> None:
    keyring.parent.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=f"chmod go-w {keyring.parent.parent}$"):
        file.read(keyring, US)
    keyring.parent.parent.chmod(0o1777)  # as /tmp: others add names there but cannot move ours
    file.read(keyring, US)


@needs_root
@pytest.mark.parametrize("which", [lambda k: k, lambda k: k.parent, lambda k: k.parent.parent])
def test_a_stranger_owns_it(keyring: Path, which: Callable[[Path], Path]) -> None:
    os.chown(which(keyring), 4711, -1)
    with pytest.raises(ConfigError, match=f"belongs to uid 4711: chown 0 {which(keyring)}$") as caught:
        file.read(keyring, US)
    mended(caught.value.message)
    file.read(keyring, US)


@needs_root
def test_root_may_look_after_the_daemons_keyring(keyring: Path) -> None:
    os.chown(keyring, 4711, -1)
    os.chown(keyring.parent, 4711, -1)
    file.read(keyring, file.trusted_by_tools(keyring))


def test_a_symbolic_link_is_answered_with_its_target(keyring: Path) -> None:
    link = keyring.parent / "link.json"
    link.symlink_to(keyring)
    with pytest.raises(ConfigError, match=f"is a symbolic link; name the file itself: {keyring}$"):
        file.read(link, US)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        file.change(link, lambda doc: doc)


def test_a_linked_folder_is_checked_where_it_leads(keyring: Path, short_tmp: Path) -> None:
    (short_tmp / "way").symlink_to(keyring.parent)
    assert file.read(short_tmp / "way" / "keyring.json", US).generation == 1
    keyring.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=f"chmod go-w {keyring.parent}$"):
        file.read(short_tmp / "way" / "keyring.json", US)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_what_is_no_file_neither_holds_nor_fools_us(short_tmp: Path, make: Callable[[Path], None]) -> None:
    make(short_tmp / "keyring.json")
    with pytest.raises(ConfigError, match=r"not a regular file|cannot be used"):
        file.read(short_tmp / "keyring.json", US)
