"""The file by which a pool is told from any other directory: which pool this is, and whose."""

from __future__ import annotations

import json
import os
from pathlib import Path

from plugins.core.errors import ConfigError

NAME = "pool.json"


def read(directory_fd: int, path: Path) -> dict[str, str] | None:
    """The "id" and "node" of a pool; None where there is no marker.

    Args:
        path: of the directory, for the error.

    Raises:
        ConfigError: it is there and makes no sense.
    """
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    except FileNotFoundError:
        return None
    with open(fd, encoding="utf-8") as file:
        try:
            content = json.load(file)
            return {"id": str(content["id"]), "node": str(content["node"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path / NAME} cannot be read: {error}; nothing was touched") from error


def write(directory_fd: int, node: str) -> str:
    """Make a directory the pool of a node, durably; returns the new id."""
    identity = os.urandom(16).hex()
    hidden = f".{NAME}.tmp"
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump({"format": 1, "id": identity, "node": node}, file)
        file.flush()
        os.fsync(fd)
    os.rename(hidden, NAME, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    os.fsync(directory_fd)
    return identity
