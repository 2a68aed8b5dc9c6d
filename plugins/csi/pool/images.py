"""The images of a pool: one file per volume, made whole under a hidden name, then renamed.

Everything goes through a descriptor of the directory. A pool that lost its mount is never written beneath, because
the descriptor goes on meaning the directory inside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from plugins.core import faults
from plugins.csi.pool import reflink


class Images:
    """Files named by a token that the caller chooses: letters, digits and dashes."""

    def __init__(self, directory_fd: int) -> None:
        self._directory = directory_fd

    def create(self, token: str, size: int, template_fd: int | None, step: str) -> None:
        """Make an image of `size` bytes durably: a clone of a template of that size, or empty.

        Args:
            step: prefix of the fault points.
        """
        if template_fd is None:
            self.make(token, lambda fd: os.ftruncate(fd, size), step)
        else:
            self.make(token, lambda fd: reflink.clone(fd, template_fd), step)

    def make(self, token: str, fill: Callable[[int], None], step: str) -> None:
        """Make an image durably; `fill` gives its descriptor the content."""
        with self.hidden(token) as fd:
            faults.point(f"{step}.hidden")
            fill(fd)
            faults.point(f"{step}.filled")
            self.keep(token, fd, step)

    @contextlib.contextmanager
    def hidden(self, token: str) -> Iterator[int]:
        """A descriptor of a new, empty image that has no name yet; see `keep`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_hidden(token), flags, 0o600, dir_fd=self._directory)
        try:
            yield fd
        finally:
            os.close(fd)

    def keep(self, token: str, fd: int, step: str) -> None:
        """Give a hidden image its name, durably.

        The name is given before the one flush that makes image and name durable. XFS and btrfs keep the order of
        the two in their log, and until the caller's record is written an image of any kind is undone at start-up.
        """
        os.rename(_hidden(token), _name(token), src_dir_fd=self._directory, dst_dir_fd=self._directory)
        faults.point(f"{step}.named")
        os.fsync(fd)
        os.fsync(self._directory)
        faults.point(f"{step}.durable")

    @contextlib.contextmanager
    def recorded(self, token: str, fill: Callable[[int], None], step: str) -> Iterator[None]:
        """An image that is whole and durable when the block begins, and gets its name when the block has ended well.

        The block writes the record, and its commit alone decides: at start-up a hidden image that is recorded gets its
        name, and one that is not is removed. So this needs no intent, and one flush less.
        """
        try:
            with self.hidden(token) as fd:
                faults.point(f"{step}.hidden")
                fill(fd)
                faults.point(f"{step}.filled")
                os.fsync(fd)
            os.fsync(self._directory)
            faults.point(f"{step}.durable")
            yield
        except BaseException:
            self.remove(token)
            raise
        self.name(token)
        faults.point(f"{step}.named")

    def name(self, token: str) -> None:
        """Give a hidden image its name."""
        os.rename(_hidden(token), _name(token), src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def hidden_tokens(self) -> set[str]:
        """All images without a name, finished or not: a look at the whole directory, for start-up."""
        return {name[1:-4] for name in os.listdir(self._directory) if name.startswith(".") and name.endswith(".tmp")}

    @contextlib.contextmanager
    def remade(self, token: str, step: str) -> Iterator[str]:
        """A copy of an image for the block to change, by its path; at the end of the block it takes the image's place.

        The image is whole at every instant, the old one or the new one. It must not be attached.
        """
        hidden = _hidden(token)
        self.remove_hidden(token)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(hidden, flags, 0o600, dir_fd=self._directory)
        try:
            source = self.open(token)
            try:
                reflink.clone(fd, source)
            finally:
                os.close(source)
            faults.point(f"{step}.copied")
            # A child reaches the file through our descriptor: a path could mean another directory by now.
            yield f"/proc/{os.getpid()}/fd/{self._directory}/{hidden}"
            os.fsync(fd)
            faults.point(f"{step}.changed")
            os.rename(hidden, _name(token), src_dir_fd=self._directory, dst_dir_fd=self._directory)
            faults.point(f"{step}.named")
        except BaseException:
            self.remove_hidden(token)
            raise
        finally:
            os.close(fd)
        os.fsync(self._directory)

    def open(self, token: str) -> int:
        """A descriptor of an image, for reading and writing; the caller closes it.

        Raises:
            FileNotFoundError: there is none.
        """
        return os.open(_name(token), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)

    def remove(self, token: str) -> None:
        """Remove an image, finished or not, durably; nothing happens where there is none.

        It is emptied first: XFS frees the blocks of an unlinked file some time later, those of an emptied one now.
        """
        for name in (_hidden(token), _name(token)):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
                os.close(fd)
                os.unlink(name, dir_fd=self._directory)
        os.fsync(self._directory)

    def remove_hidden(self, token: str) -> None:
        """Remove what a crash left of an image that was to replace another."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_hidden(token), dir_fd=self._directory)

    def tokens(self) -> set[str]:
        """All finished images: a look at the whole directory, for start-up and tools."""
        return {name[:-4] for name in os.listdir(self._directory) if name.endswith(".img") and not name.startswith(".")}

    def inodes(self) -> set[int]:
        """Inode numbers of all finished images: a look at the whole directory, for start-up and tools."""
        with os.scandir(self._directory) as entries:
            return {entry.inode() for entry in entries if entry.name.endswith(".img")}

    def allocated(self) -> int:
        """Bytes of disk that the images take, shared blocks counted for each: a look at all of them."""
        with os.scandir(self._directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)


def _name(token: str) -> str:
    return f"{token}.img"


def _hidden(token: str) -> str:
    return f".{token}.tmp"
