"""Whether a file of keys is out of reach of everybody else, and if not, the one command that mends it.

The file itself: regular, no symbolic link, readable by its owner only, and the owner is this process's user or root.
The way to it: every folder belongs to one of these two and may not be written by others; else somebody could put
another file in its place. A sticky folder such as /tmp may lie on the way, but not hold the file.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from plugins.core.errors import ConfigError

_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | stat.S_IXUSR


def check_file(path: Path, found: os.stat_result, trusted: frozenset[int]) -> None:
    """
    Args:
        path: for the message.
        found: fstat of the opened file: what is checked is what is read.
        trusted: users that may own it.

    Raises:
        ConfigError: what is wrong, with the command to run.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"the keyring {path} is not a regular file")
    if found.st_uid not in trusted:
        raise ConfigError(f"the keyring {path} belongs to uid {found.st_uid}: {_chown(path)}")
    if found.st_mode & _OPEN_TO_OTHERS:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise ConfigError(
            f"the keyring {path} has mode {mode}, only 0600 and 0400 are safe: chmod 0600 {_quoted(path)}"
        )


def check_way(path: Path, trusted: frozenset[int]) -> Path:
    """Check every folder on the way to path; returns the folder that holds it, free of symbolic links.

    Raises:
        ConfigError: what is wrong, with the command to run.
    """
    folder = Path(os.path.realpath(path.parent))
    for place in (folder, *folder.parents):
        try:
            found = os.stat(place)
        except OSError as error:
            raise ConfigError(f"the folder {place} of the keyring cannot be looked at: {error.strerror}") from error
        if found.st_uid not in trusted:
            raise ConfigError(f"the folder {place} of the keyring belongs to uid {found.st_uid}: {_chown(place)}")
        sticky = place != folder and found.st_mode & stat.S_ISVTX
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            mode = stat.S_IMODE(found.st_mode)
            raise ConfigError(
                f"the folder {place} of the keyring may be written by others (mode {mode:04o}), who could replace it: "
                f"chmod go-w {_quoted(place)}"
            )
    return folder


def _chown(path: Path) -> str:
    return f"chown {os.geteuid()} {_quoted(path)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
