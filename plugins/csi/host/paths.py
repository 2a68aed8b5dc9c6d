"""Paths from requests are hostile until they are resolved here.

A path must be absolute, without "." or "..", and lie below an allowed root. It is walked by openat2 with
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS from a descriptor of that root, so neither a link nor a rename under our feet
leads out of it. The root itself is the operator's choice and may be a link. What is then done is done through the
descriptor, never again by the text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugins.core.errors import FailedPrecondition, InvalidArgument
from plugins.csi.host import mountinfo, syscalls
from plugins.csi.host.syscalls import Status

_MAX_PATH = 4095  # PATH_MAX without its terminating zero byte
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_FAILED = frozenset({errno.EIO, errno.EUCLEAN})  # what a filesystem says of its own root after it has shut down
_RACES = 16  # openat2 says EAGAIN when a rename elsewhere disturbed the walk


@dataclass(frozen=True)
class Place:
    """A checked path: `name` in the directory `parent` (may be empty) below `root`. Nothing is opened yet."""

    text: str
    what: str
    root: str
    parent: str
    name: str

    @property
    def path(self) -> str:
        """The one way of writing it: what is recorded and compared."""
        return os.path.join(self.root, self.parent, self.name)

    @contextlib.contextmanager
    def directory(self) -> Iterator[int | None]:
        """A descriptor of the directory that holds the place; None where that does not exist.

        Raises:
            InvalidArgument: the way there leads through a symbolic link or is no directory.
        """
        fd = self._open(self.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def status(self, directory: int) -> Status | None:
        """Status of the place itself, links not followed; None where nothing is there."""
        try:
            status = syscalls.statx(directory, self.name)
        except FileNotFoundError:
            return None
        except OSError as error:
            failed = self._failed_mount() if error.errno in _FAILED else None
            if failed is None:
                raise
            return failed
        if stat.S_ISLNK(status.mode):
            raise InvalidArgument(f"{self.what} {self.text!r} is a symbolic link")
        return status

    def _failed_mount(self) -> Status | None:
        """The topmost mount here by the kernel's list, for a filesystem that failed and tells nothing any more."""
        there = [mount for mount in mountinfo.read() if mount.path == self.path]
        return Status(stat.S_IFDIR, 0, 0, there[-1].dev, 0, mount_root=True) if there else None

    def look(self) -> Status | None:
        """Directory and status in one, for a look only."""
        with self.directory() as directory:
            return self.status(directory) if directory is not None else None

    @contextlib.contextmanager
    def opened(self, directory: int) -> Iterator[int]:
        """An O_PATH descriptor of what is at the place now: the topmost mount's root if it is a mount point."""
        fd = syscalls.openat2(directory, self.name, os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, relative: str, flags: int) -> int | None:
        try:
            root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _walk(root, relative or ".", flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise InvalidArgument(f"{self.what} {self.text!r} leads through a symbolic link") from error
            if error.errno == errno.ENOTDIR:
                raise InvalidArgument(f"{self.what} {self.text!r} leads through a file") from error
            raise FailedPrecondition(f"{self.what} {self.text!r} cannot be reached: {error.strerror}") from error
        finally:
            os.close(root)


class Roots:
    """The directories below which requests may name paths."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(os.path.normpath(root) for root in roots)

    def place(self, text: str, what: str) -> Place:
        """Check the text of a path; `what` names the field in errors ("target_path").

        Raises:
            InvalidArgument: it is empty, relative, too long, not canonical, or below no allowed root.
        """
        _check_text(text, what)
        path = text.rstrip("/")
        for root in self.roots:
            if path.startswith(root + "/"):
                parent, _, name = path[len(root) + 1 :].rpartition("/")
                return Place(text, what, root, parent, name)
        raise InvalidArgument(f"{what} {text!r} does not lie below {' or '.join(self.roots)}")


def _check_text(text: str, what: str) -> None:
    if not text:
        raise InvalidArgument(f"{what} is missing")
    if not text.startswith("/"):
        raise InvalidArgument(f"{what} {text!r} is not absolute")
    if "\0" in text:
        raise InvalidArgument(f"{what} contains a zero byte")
    parts = text.rstrip("/").split("/")[1:]
    if len(os.fsencode(text)) > _MAX_PATH or any(len(os.fsencode(part)) > 255 for part in parts):
        raise InvalidArgument(f"{what} is too long")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(f"{what} {text!r} contains '//', '.' or '..'")


def _walk(root: int, relative: str, flags: int) -> int:
    for _ in range(_RACES):
        try:
            return syscalls.openat2(root, relative, flags, resolve=_RESOLVE)
        except BlockingIOError:
            continue
    raise FailedPrecondition(f"{relative!r} cannot be resolved: it is being renamed all the time")
