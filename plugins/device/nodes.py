"""Device nodes in /dev: whether what lies at a path is the very device that the kernel announced."""

from __future__ import annotations

import os
import stat

from plugins.device.hardware import Node

_TYPES = {"c": stat.S_ISCHR, "b": stat.S_ISBLK}


def problem(node: Node) -> str:
    """Why the node must not be handed out; empty if it is the announced device.

    Looked at without following a symlink anywhere on the path: what a container gets is decided by the type and the
    numbers of the file, and a link or a regular file in its place would be something else.
    """
    try:
        found = os.lstat(node.path)
        real = os.path.realpath(node.path, strict=True)
    except FileNotFoundError:
        return f"{node.path} is not there"
    except OSError as error:
        return f"{node.path} cannot be looked at: {error.strerror}"
    if not _TYPES[node.kind](found.st_mode):
        return f"{node.path} is {_kind_of(found.st_mode)}, not the device that was found"
    if real != os.path.normpath(node.path):
        return f"{node.path} leads through a symbolic link to {real}"
    numbers = (os.major(found.st_rdev), os.minor(found.st_rdev))
    if numbers != (node.major, node.minor):
        return f"{node.path} is device {numbers[0]}:{numbers[1]}, the one found was {node.major}:{node.minor}"
    return ""


def _kind_of(mode: int) -> str:
    names = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a pipe"),
    )
    return next((name for check, name in names if check(mode)), "something else")
