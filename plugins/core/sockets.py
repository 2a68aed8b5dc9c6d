"""Public Unix sockets: bound under a hidden name, given their mode and owner, then renamed to the public name.

A caller never sees a half-made socket, a plugin watcher never sees a hidden name, and a file at the public path that
is not ours is never deleted: ownership is the inode that was bound, compared before each unlink. grpcio does none of
that (it unlinks whatever lies at the path), which is why it only ever listens on a private socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from plugins.core.errors import ConfigError
from plugins.core.plugin import Listener

MAX_PATH = 107
"""Bytes of a Unix socket's path, without the closing zero (sockaddr_un.sun_path, unix(7))."""

_BACKLOG = 512  # connections that wait while one process hands over to the next


def check_path(path: Path) -> None:
    """Raises ConfigError where no client could connect to that path."""
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise ConfigError(f"the socket path {path} has {size} bytes; Unix sockets allow {MAX_PATH}: use a shorter one")
    if not path.is_absolute():
        raise ConfigError(f"the socket path {path} must be absolute")


class FileIdentity(NamedTuple):
    """What tells one file from another at the same path. An inode number alone does not: it is used again at once
    after a removal; a socket's modification time is that of its making and survives chmod, chown and rename."""

    device: int
    inode: int
    made_ns: int


def file_identity(path: Path) -> FileIdentity | None:
    """The identity of what lies at path (a symlink itself, not its target); None if nothing does."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return FileIdentity(found.st_dev, found.st_ino, found.st_mtime_ns)
    return None


@dataclass(frozen=True)
class PublicSocket:
    """A listening socket and the file that leads to it, as it was bound."""

    spec: Listener
    socket: socket.socket
    identity: FileIdentity

    def owned(self) -> bool:
        """Whether the public path still leads to this socket."""
        return file_identity(self.spec.path) == self.identity

    def unlink(self) -> None:
        """Remove the file if it is still ours."""
        if self.owned():
            with contextlib.suppress(FileNotFoundError):
                self.spec.path.unlink()

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        self.socket.close()


def bind(spec: Listener) -> PublicSocket:
    """Make the public socket of a listener.

    Raises:
        ConfigError: the path is too long, is taken by something that is not a socket or by a process that answers,
            or its folder is open to everybody.
    """
    check_path(spec.path)
    folder = spec.path.parent
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"the folder {folder} of a socket cannot be used: {error.strerror}") from error
    try:
        _check_folder(folder)
        _check_taken(spec.path)
        return _bind_in(directory, spec)
    except OSError as error:
        raise ConfigError(f"the socket {spec.path} cannot be made: {error.strerror}") from error
    finally:
        os.close(directory)


def adopt(spec: Listener, descriptor: int, identity: FileIdentity) -> PublicSocket:
    """Take over the descriptor of a socket that another process bound (a hand-over); the file is not touched."""
    return PublicSocket(spec, socket.socket(fileno=descriptor), identity)


def _bind_in(directory: int, spec: Listener) -> PublicSocket:
    hidden = f".{spec.path.name}.{os.getpid()}"
    # Through the descriptor the hidden name does not count against the 107 bytes: only the public path does.
    near = f"/proc/self/fd/{directory}/{hidden}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(hidden, dir_fd=directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(near)
        os.chmod(near, 0o600 if spec.mode is None else spec.mode)
        if spec.gid is not None and spec.gid >= 0:
            os.chown(near, -1, spec.gid)
        sock.listen(_BACKLOG)
        identity = file_identity(Path(near))
        os.rename(hidden, spec.path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden, dir_fd=directory)
        raise
    assert identity is not None  # it was made three lines above, under a name that nobody else uses
    return PublicSocket(spec, sock, identity)


def _check_folder(folder: Path) -> None:
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(f"the folder {folder} may be written by everybody, who could replace the socket: chmod o-w")


def _check_taken(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path} exists and is not a socket; it was left alone: move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == 0:
            raise ConfigError(
                f"the socket {path} is served by another process; stop it, or give both the same state directory"
            )
