"""Mounts by the kernel's mount API: no mount program, no path walked twice, nothing visible until it is complete.

A mount is made detached, gets its attributes, and is only then attached to a descriptor of its target. So a read-only
bind is never writable for an instant, and a kill between two steps leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from plugins.core.errors import FailedPrecondition, Internal
from plugins.csi.host import syscalls

_BUSY_RETRY_S = 0.01
_BUSY_LIMIT_S = 0.5  # a scanner that looks at every new mount (udev, a monitoring agent) lets go within this


@dataclass(frozen=True)
class MountOptions:
    """Checked options of a mount.

    attributes: MOUNT_ATTR_* of the mount itself.
    settings: (name, value) for the filesystem; value None for a flag.
    """

    attributes: int = 0
    settings: tuple[tuple[str, str | None], ...] = ()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return bool(self.attributes & syscalls.MOUNT_ATTR_RDONLY)


class MountFailed(Internal):
    """The kernel refused a mount; `errno` is its reason."""

    def __init__(self, message: str, number: int, detail: str) -> None:
        super().__init__(message, detail=detail)
        self.errno = number


def mount(source: str, filesystem: str, options: MountOptions, target_fd: int) -> None:
    """Mount a block device on the directory that target_fd refers to.

    Raises:
        MountFailed: with the kernel's own words.
    """
    with _descriptor(syscalls.fsopen(filesystem)) as context:
        try:
            syscalls.fsconfig_string(context, "source", source)
            for name, value in options.settings:
                if value is None:
                    syscalls.fsconfig_flag(context, name)
                else:
                    syscalls.fsconfig_string(context, name, value)
            syscalls.fsconfig_create(context)
            with _descriptor(syscalls.fsmount(context, options.attributes)) as mounted:
                syscalls.attach_mount(mounted, target_fd)
        except OSError as error:
            message = f"the kernel refuses to mount the {filesystem} filesystem: {_messages(context) or error.strerror}"
            raise MountFailed(message, error.errno or 0, f"{source}: {error}") from error


def bind(source_fd: int, target_fd: int, attributes: int = 0) -> None:
    """Show what source_fd refers to at target_fd as well, with MOUNT_ATTR_* of its own.

    Raises:
        MountFailed: with the kernel's reason.
    """
    try:
        with _descriptor(syscalls.clone_mount(source_fd)) as copy:
            if attributes:
                syscalls.set_mount_attributes(copy, attributes)
            syscalls.attach_mount(copy, target_fd)
    except OSError as error:
        raise MountFailed(f"the kernel refuses a bind mount: {error.strerror}", error.errno or 0, str(error)) from error


def unmount(directory_fd: int, name: str, shown: str, *, wait: bool = True) -> None:
    """Take away the topmost mount at `name` in a directory. Never lazily: what is in use stays, and says so.

    Args:
        shown: the path for the error.
        wait: give those who only look half a second to go.

    Raises:
        FailedPrecondition: it is still in use.
    """
    path = f"/proc/self/fd/{directory_fd}/{name}"
    until = time.monotonic() + (_BUSY_LIMIT_S if wait else 0)
    while True:
        try:
            return syscalls.umount(path)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no mount point any more: somebody else was faster
                return None
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > until:
                raise FailedPrecondition(f"the mount at {shown!r} is still in use by a process") from error
        time.sleep(_BUSY_RETRY_S)


@contextlib.contextmanager
def _descriptor(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _messages(context: int) -> str:
    """What the filesystem said about a refusal: "e ext4: ..." lines, one per read."""
    words = []
    with contextlib.suppress(OSError):
        while line := os.read(context, 1024):
            words.append(line.decode("utf-8", "replace").strip()[2:])
    return "; ".join(words)
