"""The pool: a directory on a reflink filesystem that belongs to one daemon.

    pool.json     which pool this is, and whose
    volumes/      one image per volume
    snapshots/    one image per snapshot
    templates/    ready-made filesystems

Everything below goes through descriptors taken once. If the pool's mount is lost or covered, they still mean the pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plugins.core import log
from plugins.core.errors import ConfigError, DataLoss
from plugins.csi.host import filesystems, mountinfo, syscalls
from plugins.csi.pool import embedded, marker, reflink, space
from plugins.csi.pool.devices import LoopDevices
from plugins.csi.pool.images import Images
from plugins.csi.pool.templates import Templates

logger = log.get("csi.pool")

_NO_DIRECT_IO = frozenset({"btrfs"})  # its checksums and direct I/O from a loop device give false alarms


@dataclass(frozen=True)
class PoolSettings:
    """Where the pool is. image, image_size: of the embedded pool; allow_embedded: whether one may be made."""

    path: Path
    image: Path
    image_size: int
    allow_embedded: bool
    templates: int


class Pool:
    """An open, locked pool."""

    def __init__(self, settings: PoolSettings, node: str, known_id: str | None) -> None:
        """Find or make the pool.

        Args:
            node: this node's name; a pool stays with the node that made it.
            known_id: the pool that the state belongs to; None: the state is new.

        Raises:
            ConfigError: it cannot be used; says which path and why.
        """
        self._settings = settings
        self.embedded = _prepare(settings)
        self._descriptors = [os.open(settings.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._root = self._descriptors[0]
        try:
            self._lock()
            self._volumes = self._folder("volumes")
            self.images = Images(self._volumes)
            self.snapshots = Images(self._folder("snapshots"))
            self.id = self._identify(node, known_id)
            self.templates = Templates(self._folder("templates"), settings.templates)
        except BaseException:
            self.close()
            raise
        self.dev = os.fstat(self._volumes).st_dev
        self.dedicated = self.embedded or syscalls.statx(self._root).mount_root  # the whole filesystem is ours
        self.filesystem = filesystem_at(settings.path)
        self.devices = LoopDevices(direct_io=self.filesystem not in _NO_DIRECT_IO)

    @property
    def path(self) -> Path:
        """The directory, for people: the code goes by descriptors."""
        return self._settings.path

    def space(self) -> tuple[int, int]:
        """(total, free) bytes. An embedded pool has no more free than the filesystem below its image."""
        return space.of(self._volumes, self._settings.image if self.embedded else None)

    @property
    def keeps_space(self) -> bool:
        """Whether an image can have its space beforehand: btrfs writes to new places, and our own image is sparse."""
        return self.filesystem == "xfs" and not self.embedded

    @property
    def read_only(self) -> bool:
        """Whether the pool's filesystem takes no writes."""
        return bool(os.fstatvfs(self._volumes).f_flag & os.ST_RDONLY)

    @contextlib.contextmanager
    def template(self, fs: str, size: int) -> Iterator[int | None]:
        """A descriptor of the ready-made filesystem for a volume; None for a raw one (fs "")."""
        fd = self.templates.open(filesystems.KNOWN[fs], size) if fs else None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    @contextlib.contextmanager
    def content(self, fs: str, size: int) -> Iterator[Callable[[int], None]]:
        """What fills the image of a new volume of `size` bytes: a clone of a ready-made filesystem, or ("") length."""
        with self.template(fs, size) as template:
            if template is None:
                yield lambda fd: os.ftruncate(fd, size)
            else:
                yield lambda fd: reflink.clone(fd, template)

    @contextlib.contextmanager
    def opened(self, token: str) -> Iterator[int]:
        """A descriptor of a volume's image.

        Raises:
            DataLoss: there is no such image.
        """
        try:
            opened = self.images.open(token)
        except FileNotFoundError as error:
            raise DataLoss(f"the image of volume {token!r} is missing from the pool {self.path}") from error
        try:
            yield opened
        finally:
            os.close(opened)

    def check(self) -> None:
        """Raises OSError when the pool's filesystem has failed: after an I/O error XFS refuses every access."""
        os.stat(marker.NAME, dir_fd=self._root)

    def close(self) -> None:
        """Let go of the pool; an embedded one that nothing uses is unmounted."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self.embedded and not embedded.release(self._settings.image, self._settings.path):
            logger.info("the embedded pool stays mounted: volumes are in use", path=str(self.path))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"the pool {self.path} is in use by another daemon") from error

    def _folder(self, name: str) -> int:
        """A descriptor of a folder of the pool, made if need be."""
        try:
            os.mkdir(name, 0o700, dir_fd=self._root)
            os.fsync(self._root)
        except FileExistsError:
            pass
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        self._descriptors.append(fd)
        return fd

    def _identify(self, node: str, known_id: str | None) -> str:
        found = marker.read(self._root, self.path)
        if found is None:
            if known_id or self.images.tokens():
                raise ConfigError(
                    f"{self.path} is not the pool that the volumes of this node are in: is its filesystem mounted?"
                    if known_id
                    else f"{self.path} holds images but no {marker.NAME}; nothing was touched"
                )
            return marker.write(self._root, node)
        if known_id is None and self.images.tokens():
            raise ConfigError(
                f"the pool {self.path} holds volumes that the state directory does not know; give the daemon the state "
                "directory that belongs to this pool"
            )
        if known_id not in (None, found["id"]):
            raise ConfigError(f"{self.path} is another pool than the one that the state directory belongs to")
        if found["node"] != node and self.images.tokens():
            raise ConfigError(
                f"the pool {self.path} belongs to node {found['node']!r}, not {node!r}; set node_id to that"
            )
        return found["id"] if found["node"] == node else marker.write(self._root, node)


def filesystem_at(path: Path) -> str:
    """The type of the filesystem at a path ("ext4"), from mountinfo."""
    mount = mountinfo.containing(mountinfo.read(), path.resolve())
    return mount.filesystem if mount else "unknown"


def _prepare(settings: PoolSettings) -> bool:
    """Let there be a directory that shares blocks; True: it is the embedded pool."""
    if settings.image.exists():
        embedded.ensure(settings.image, settings.image_size, settings.path)
        return True
    settings.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if reflink.supported(str(settings.path)):
        return False
    if not settings.allow_embedded:
        raise ConfigError(
            f"the pool {settings.path} lies on {filesystem_at(settings.path)}, which cannot share blocks between files "
            "(FICLONE), and embedded = false: put it on XFS with reflink or on btrfs, or allow the embedded pool"
        )
    embedded.ensure(settings.image, settings.image_size, settings.path)
    return True
