"""The pool's directory against the records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from plugins.core.errors import ConfigError
from plugins.csi.doctor.finding import Finding
from plugins.csi.host import filesystems
from plugins.csi.ledger import Ledger
from plugins.csi.pool import marker

_TEMPLATES = {f"{kind.name}-{kind.digest}" for kind in filesystems.KNOWN.values()}


class Files:
    """The files of a pool at one moment, by folder."""

    def __init__(self, pool: Path) -> None:
        self.pool = pool
        self.names = {folder: _names(pool / folder) for folder in ("volumes", "snapshots", "templates")}

    def tokens(self, folder: str) -> set[str]:
        """Of the finished images."""
        return {n[:-4] for n in self.names[folder] if n.endswith(".img") and not n.startswith(".")}

    def hidden(self, folder: str) -> set[str]:
        """Names of unfinished files."""
        return {n for n in self.names[folder] if n.startswith(".")}


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()  # a pool of an earlier release


def identity(pool: Path, records: Ledger) -> Iterator[Finding]:
    """Whether it is the pool that the records belong to."""
    found, known = _marker(pool), records.facts.get("pool id")
    if known and (records.volumes or records.snapshots) and (found is None or found["id"] != known):
        yield Finding(
            *("wrong-pool", str(pool), "this is another pool than the one that the records belong to"),
            "mount the right filesystem there, or give the daemon the state directory that belongs to this pool",
        )


def _marker(pool: Path) -> dict[str, str] | None:
    fd = os.open(pool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return marker.read(fd, pool)
    except ConfigError:
        return None  # as good as none: it does not say which pool this is
    finally:
        os.close(fd)


def images(files: Files, records: Ledger) -> Iterator[Finding]:
    """Images without a record, records without an image."""
    for folder, rows in (("volumes", records.volumes), ("snapshots", records.snapshots)):
        one = folder[:-1]
        known, found = {row["token"]: row for row in rows}, files.tokens(folder)
        for token in sorted(found - known.keys()):
            if not records.announced(token):
                path = files.pool / folder / f"{token}.img"
                yield Finding(
                    *("image-without-record", str(path), f"an image that no {one} is recorded for"),
                    f"look into it (losetup --read-only --find --show {path}); if nobody needs it: rm {path}",
                )
        for token in sorted(known.keys() - found - {name[1:-4] for name in files.hidden(folder)}):
            row = known[token]
            if not records.announced(token) and not records.announced(row["id"]):
                yield Finding(
                    *("record-without-image", row["id"], f"the image of {one} {row['name']!r} is missing"),
                    f"put it back as {files.pool / folder / token}.img ({row['size']} bytes) from a backup, "
                    f"or delete the {one} in Kubernetes: that forgets the record",
                )


def unfinished(files: Files, records: Ledger) -> Iterator[Finding]:
    """Files that a killed call left half made."""
    for folder in ("volumes", "snapshots"):
        for name in sorted(files.hidden(folder)):
            if not records.announced(name[1:].rpartition(".")[0]):
                path = files.pool / folder / name
                yield Finding(
                    *(
                        "unfinished-image",
                        str(path),
                        "an image that was never finished, and nobody works on it",
                    ),
                    "start the daemon: it names it if it is recorded, and removes it if not",
                )


def templates(files: Files, served: bool) -> Iterator[Finding]:
    """Ready-made filesystems that nothing will use."""
    for name in sorted(files.names["templates"]):
        path = files.pool / "templates" / name
        kind, _, rest = name.removesuffix(".img").partition("-")
        if name.startswith("."):
            if not served:
                text = "a template that was never finished"
                yield Finding("unfinished-template", str(path), text, "start the daemon: it removes it first")
        elif f"{kind}-{rest.rpartition('-')[2]}" not in _TEMPLATES:
            text = "a template that this release does not use"
            yield Finding("unused-template", str(path), text, f"rm {path}; volumes made from it keep their data")
