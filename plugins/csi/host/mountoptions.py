"""Mount options from requests: an allow list per filesystem, never passed on unread.

Options that name another device or file (logdev, journal_path), that switch safety off (norecovery, noload, sb) or
that let a volume stop the node (errors=panic) are not on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugins.core.errors import InvalidArgument
from plugins.csi.host import syscalls
from plugins.csi.host.mounts import MountOptions

_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
    "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
}
_DEFAULTS = frozenset({"defaults", "rw", "suid", "dev", "exec", "atime", "diratime", "relatime", "async"})
_COMMON = frozenset({"sync", "dirsync", "lazytime", "nolazytime", "discard", "nodiscard"})
_SECURITY = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
# fmt: off
_PER_FILESYSTEM = {
    "ext4": frozenset(
        {
            "acl", "noacl", "auto_da_alloc", "noauto_da_alloc", "barrier", "nobarrier", "block_validity",
            "noblock_validity", "commit", "data", "delalloc", "nodelalloc", "dioread_lock", "dioread_nolock", "errors",
            "grpid", "nogrpid", "i_version", "init_itable", "noinit_itable", "inode_readahead_blks",
            "journal_async_commit", "journal_checksum", "nojournal_checksum", "journal_ioprio", "max_batch_time",
            "min_batch_time", "max_dir_size_kb", "user_xattr", "usrquota", "grpquota", "prjquota", "quota", "noquota",
            "stripe"
        }
    ),
    "xfs": frozenset(
        {
            "allocsize", "attr2", "filestreams", "grpid", "nogrpid", "ikeep", "noikeep", "inode32", "inode64",
            "largeio", "nolargeio", "logbsize", "logbufs", "noalign", "nouuid", "noquota", "quota", "uquota",
            "usrquota", "uqnoenforce", "gquota", "grpquota", "gqnoenforce", "pquota", "prjquota", "pqnoenforce",
            "sunit", "swalloc", "swidth", "wsync"
        }
    ),
}
# fmt: on
_VALUES = {"errors": frozenset({"continue", "remount-ro"}), "data": frozenset({"journal", "ordered", "writeback"})}
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LABEL = re.compile(r'"?[A-Za-z0-9_.:,-]{1,256}"?')  # an SELinux label, which the kubelet puts in quotes


def parse(flags: Sequence[str], filesystem: str) -> MountOptions:
    """The `mount_flags` of a capability for a filesystem ("" for none: attributes of a mount only).

    Raises:
        InvalidArgument: an option is unknown, or its value is.
    """
    attributes = 0
    settings: list[tuple[str, str | None]] = []
    for option in (part for flag in flags for part in _split(flag)):
        name, equals, value = option.partition("=")
        if not equals and name in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[name]
        elif equals or name not in _DEFAULTS:
            settings.append((name, _value(name, value, filesystem) if equals else None))
            if not equals:
                _check_flag(name, filesystem)
    if attributes & syscalls.MOUNT_ATTR_RDONLY:
        settings.append(("ro", None))
    return MountOptions(attributes, tuple(settings))


def _split(flag: str) -> Sequence[str]:
    """One flag may hold several, as people write them; a label keeps its commas."""
    return (flag,) if flag.partition("=")[0] in _SECURITY else flag.split(",")


def _check_flag(name: str, filesystem: str) -> None:
    if name not in _COMMON and name not in _PER_FILESYSTEM.get(filesystem, ()):
        raise InvalidArgument(f"mount option {name!r} is not supported{_for(filesystem)}")


def _value(name: str, value: str, filesystem: str) -> str:
    if name in _SECURITY and _LABEL.fullmatch(value):
        return value.strip('"')
    if name not in _PER_FILESYSTEM.get(filesystem, ()):
        raise InvalidArgument(f"mount option {name!r} with a value is not supported{_for(filesystem)}")
    if not _PLAIN.fullmatch(value) or value not in _VALUES.get(name, {value}):
        raise InvalidArgument(f"mount option {name!r} has a value that is not supported")
    return value


def _for(filesystem: str) -> str:
    return f" for {filesystem}" if filesystem else ""
