"""The file keyring: one JSON document in a file that only its owner can read, replaced as a whole.

A change is written beside the file, synced, and renamed over it, under a lock that a second command does not wait
for. Killed at any instruction, the file is the old one or the new one. A leftover beside it is removed by the next
change; it has the mode 0600 like the keyring itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from plugins.core import faults
from plugins.core.errors import Aborted, AlreadyExists, ConfigError
from plugins.kms.document import Document, parse, serialise
from plugins.kms.keyring import Keyring
from plugins.kms.providers.trust import check_file, check_way

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not hold us
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SIZE_MAX = 1 << 20
"""Bytes of a keyring file: about four thousand keys."""


class FileProvider:
    """Reads the keyring for the daemon: the file must belong to the daemon's user or to root."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Keyring:
        """Read and check everything.

        Raises:
            ConfigError: what is wrong with the file, its mode, owner, folders or content, and what to do.
        """
        document = read(self.path, frozenset((0, os.geteuid())))
        try:
            return Keyring(document)
        except ConfigError as error:
            raise ConfigError(f"the keyring {self.path}: {error.message}") from None

    def identity(self) -> object:
        """Changes with the file behind the name, its content, owner and mode: the status time moves with each."""
        try:
            found = os.lstat(self.path)
        except OSError as error:
            return error.errno
        return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def read(path: Path, trusted: frozenset[int]) -> Document:
    """The document in a keyring file.

    Args:
        trusted: users that may own the file and the folders on its way.

    Raises:
        ConfigError: it is missing, unsafe or not a keyring.
    """
    folder = check_way(path, trusted)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(os.open(folder / path.name, _READ), "rb"))
        except OSError as error:
            raise ConfigError(_unreadable(path, error)) from error
        check_file(path, os.fstat(file.fileno()), trusted)
        data = file.read(_SIZE_MAX + 1)
    if len(data) > _SIZE_MAX:
        raise ConfigError(f"the keyring {path} is over {_SIZE_MAX} bytes")
    try:
        return parse(data)
    except ConfigError as error:
        raise ConfigError(f"the keyring {path}: {error.message}") from None


def create(path: Path, document: Document, uid: int, gid: int) -> None:
    """Write the first keyring; an existing file is never touched. Missing folders are made (the last one 0700).

    Args:
        uid, gid: who owns file and new folder; -1 for ours.

    Raises:
        AlreadyExists: something lies at path.
        ConfigError: the folder is unsafe, or the owner cannot be set.
    """
    try:
        _make_folder(path.parent, uid, gid)
        check_way(path, frozenset((0, os.geteuid(), uid if uid >= 0 else 0)))
        with _exclusive(path.parent) as folder, _written(folder, path, document, uid, gid, 0o600) as new:
            os.link(new, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.fsync(folder)
    except FileExistsError as error:
        raise AlreadyExists(f"{path} exists; a keyring is never overwritten: its data would be lost") from error
    except OSError as error:
        raise ConfigError(f"the keyring {path} cannot be made: {error.strerror}") from error


def change(path: Path, edit: Callable[[Document], Document]) -> Document:
    """Replace the keyring by an edited one; owner and mode stay. Returns the new document.

    root may change the keyring of any user: the file then stays that user's.

    Raises:
        ConfigError: the file is unsafe, not a keyring, the edit is not possible, or the owner cannot be kept.
        Aborted: another command is changing a keyring in this folder.
    """
    try:
        with _exclusive(path.parent) as folder:
            found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            document = edit(read(path, trusted_by_tools(path)))
            mode = stat.S_IMODE(found.st_mode)
            with _written(folder, path, document, found.st_uid, found.st_gid, mode) as new:
                os.rename(new, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                faults.point("kms.keyring.renamed")
                os.fsync(folder)
    except OSError as error:
        raise ConfigError(_unreadable(path, error)) from error
    return document


def trusted_by_tools(path: Path) -> frozenset[int]:
    """For commands: our user and root; and where we are root, whoever owns the file (the daemon's user)."""
    users = {0, os.geteuid()}
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            users.add(os.lstat(path).st_uid)
    return frozenset(users)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise Aborted(f"another command is changing a keyring in {folder}; try again when it has ended") from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written(folder: int, path: Path, document: Document, uid: int, gid: int, mode: int) -> Iterator[str]:
    """A complete, synced file with the document beside path; what is left of it at the end is removed."""
    name = f".{path.name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)  # of a command that was killed; nobody else is here: the folder is locked
    try:
        with open(os.open(name, _MAKE, 0o600, dir_fd=folder), "wb") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.write(serialise(document))
            file.flush()
            os.fsync(file.fileno())
        faults.point("kms.keyring.written")
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _make_folder(folder: Path, uid: int, gid: int) -> None:
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, gid)


def _unreadable(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"the keyring {path} is a symbolic link; name the file itself: {os.path.realpath(path)}"
    if error.errno == errno.ENOENT:
        return f"there is no keyring {path}: make the first one with `nodeplug kms init`, or copy it from another node"
    if error.errno == errno.EACCES:
        return f"the keyring {path} cannot be read by uid {os.geteuid()}: chown {os.geteuid()} {path}"
    if error.errno == errno.EPERM:
        return f"the owner of the keyring {path} cannot be kept: run this as root or as that user"
    return f"the keyring {path} cannot be used: {error.strerror}"
