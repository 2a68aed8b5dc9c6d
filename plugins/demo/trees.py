"""A directory tree: copied into a volume, and read back as one checksum."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
_NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class Tree:
    """What was seen. digest: over every path, kind, mode and content, in order."""

    files: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Source:
    """What to copy. skip: names of folders that are left out."""

    path: Path
    skip: frozenset[str] = frozenset()


def standard_library() -> Source:
    """Python's own, without what was installed beside it."""
    return Source(Path(sysconfig.get_path("stdlib")).resolve(), _NOT_STANDARD)


def size(source: Source) -> int:
    """Bytes that a copy takes, each file rounded up to a block of 4 KiB."""
    return sum(-(-e.stat(follow_symlinks=False).st_size // 4096) * 4096 + 4096 for e in _walk(source.path, source.skip))


def copy(source: Source, into: Path) -> Tree:
    """Copy folders, files and links (nothing else); returns what the source is."""
    into.mkdir()
    for entry in _walk(source.path, source.skip):
        target = into / Path(entry.path).relative_to(source.path)
        if entry.is_symlink():
            target.symlink_to(os.readlink(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            target.mkdir()
        else:
            _copy_file(Path(entry.path), target)
    return read(source)


def read(source: Source) -> Tree:
    """Read a tree as a whole."""
    digest, files, total = hashlib.sha256(), 0, 0
    for entry in _walk(source.path, source.skip):
        name = os.path.relpath(entry.path, source.path)
        if entry.is_symlink():
            digest.update(f"link {name} {os.readlink(entry.path)}\n".encode(errors="surrogateescape"))
        elif entry.is_dir(follow_symlinks=False):
            digest.update(f"folder {name}\n".encode(errors="surrogateescape"))
        else:
            found = entry.stat(follow_symlinks=False)
            mode, content = stat.S_IMODE(found.st_mode), _hash(Path(entry.path))
            digest.update(f"file {name} {mode:o} {content}\n".encode(errors="surrogateescape"))
            files, total = files + 1, total + found.st_size
    return Tree(files, total, digest.hexdigest())


def _walk(folder: Path, skip: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    """Folders, regular files and links below a folder, always in the same order."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda e: e.name)
    for entry in ordered:
        if entry.is_symlink() or entry.is_file(follow_symlinks=False):
            yield entry
        elif entry.is_dir(follow_symlinks=False) and entry.name not in skip:
            yield entry
            yield from _walk(Path(entry.path), skip)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
        os.fchmod(writer.fileno(), stat.S_IMODE(os.fstat(reader.fileno()).st_mode))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
