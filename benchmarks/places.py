"""Where benchmarks work: a temporary root with short paths, and an XFS reflink pool for the volumes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import floor

_POOL_SIZE = 16 << 30  # sparse


@contextlib.contextmanager
def root() -> Iterator[Path]:
    """A temporary folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="np-bench-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def pool(folder: Path) -> Iterator[Path]:
    """A mounted XFS filesystem that can reflink, made in that folder. Needs root."""
    image, target = folder / "pool.img", folder / "pool"
    target.mkdir()
    floor.sparse(image, _POOL_SIZE)
    make_filesystem("xfs", image)
    device = floor.attach(image)
    try:
        floor.mount(device, target, "xfs")
        try:
            yield target
        finally:
            floor.unmount(target)
    finally:
        floor.detach(device)


def templates(folder: Path) -> dict[str, Path]:
    """Formatted images of the size of a volume, one for each filesystem."""
    made = {}
    for kind in ("ext4", "xfs"):
        made[kind] = folder / f"template.{kind}"
        floor.sparse(made[kind], floor.SIZE)
        make_filesystem(kind, made[kind])
    return made


def make_filesystem(kind: str, image: Path) -> None:
    """mkfs over a file."""
    options = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f", "-s", f"size={floor.SECTOR}"]}[kind]
    subprocess.run([f"mkfs.{kind}", *options, str(image)], check=True, capture_output=True)
