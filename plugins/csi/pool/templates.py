"""Ready-made filesystems: one mkfs per (filesystem, size), then a clone for every volume.

This is the only place where mkfs runs, and it runs on files that no volume has. So no path through the code can
format a device that may hold data.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading

from plugins.core import command, log
from plugins.csi.host.filesystems import Filesystem
from plugins.csi.pool import reflink

logger = log.get("csi.templates")

_MKFS_TIMEOUT_S = 120.0


class Templates:
    """The templates of a pool, at most `limit`: the one unused for longest goes first."""

    def __init__(self, directory_fd: int, limit: int) -> None:
        """Forget what a crash left half made; know what is there."""
        self._directory = directory_fd
        self._limit = limit
        self._guard = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._recent: collections.OrderedDict[str, None] = collections.OrderedDict()
        names = os.listdir(directory_fd)
        for name in names:
            if name.startswith("."):
                os.unlink(name, dir_fd=directory_fd)
        finished = [name for name in names if not name.startswith(".")]
        for name in sorted(finished, key=lambda n: os.stat(n, dir_fd=directory_fd).st_mtime):
            self._recent[name] = None

    def open(self, kind: Filesystem, size: int) -> int:
        """A descriptor of the template for this kind and size in bytes, made now if need be. The caller closes it.

        Raises:
            CommandFailed, CommandMissing, DeadlineExceeded: mkfs.
        """
        name = f"{kind.name}-{size}-{kind.digest}.img"
        with contextlib.suppress(FileNotFoundError):
            return self._open(name)
        with self._guard:
            making = self._making.setdefault(name, threading.Lock())
        with making:  # whoever needs the same one waits for it: it is done in milliseconds, and done once
            with contextlib.suppress(FileNotFoundError):
                return self._open(name)
            try:
                self._make(name, kind, size)
                return self._open(name)
            finally:
                with self._guard:
                    self._making.pop(name, None)
                self._evict()

    def _open(self, name: str) -> int:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        with self._guard:
            self._recent[name] = None
            self._recent.move_to_end(name)
        return fd

    def _make(self, name: str, kind: Filesystem, size: int) -> None:
        raw, clean = f".{name}.raw", f".{name}.tmp"
        try:
            fd = self._new(raw)
            try:
                os.ftruncate(fd, size)
                # The child reaches the file through our descriptor: a path could mean another directory by now.
                command.run([*kind.mkfs, f"/proc/{os.getpid()}/fd/{self._directory}/{raw}"], timeout=_MKFS_TIMEOUT_S)
                self._copy(fd, clean)
            finally:
                os.close(fd)
            os.rename(clean, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
        finally:
            self._unlink(raw)
            self._unlink(clean)
        logger.info("template made", template=name)

    def _copy(self, source_fd: int, name: str) -> None:
        """A clone has only what was written: space that mkfs reserved for a journal stays behind."""
        fd = self._new(name)
        try:
            reflink.clone(fd, source_fd)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _new(self, name: str) -> int:
        self._unlink(name)
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._directory)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def _evict(self) -> None:
        """Clones under way hold a descriptor, so a template may go at any time."""
        with self._guard:
            surplus = len(self._recent) - self._limit
            names = [self._recent.popitem(last=False)[0] for _ in range(max(0, surplus))]
        for name in names:
            self._unlink(name)
