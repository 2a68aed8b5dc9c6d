"""Where benchmarks work: a temporary root with short paths, and an XFS reflink pool for the volumes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import floor
from tools import leaks

_POOL_SIZE = 16 << 30  # sparse


@contextlib.contextmanager
def root() -> Iterator[Path]:
    """A temporary folder; at the end it goes, with every mount and loop device below it."""
    folder = make_root()
    try:
        yield folder
    finally:
        remove(folder)


def make_root() -> Path:
    """The same for a caller that removes it in another process."""
    return Path(tempfile.mkdtemp(prefix="np-bench-", dir="/tmp"))


def remove(folder: Path) -> None:
    """Unmount, detach and delete whatever is left below a root."""
    left = leaks.below([str(folder)], leaks.snapshot())
    for target in sorted(left["mount"], reverse=True):  # the deepest first
        floor.unmount(Path(target))
    for device in left["loop device"]:
        with contextlib.suppress(OSError):  # released by itself when its mount went
            floor.detach(f"/dev/{device}")
    shutil.rmtree(folder)


def pool(folder: Path) -> Path:
    """A mounted XFS filesystem that can reflink, made in that folder. Needs root."""
    image, target = folder / "pool.img", folder / "pool"
    target.mkdir()
    floor.sparse(image, _POOL_SIZE)
    make_filesystem("xfs", image)
    floor.mount(floor.attach(image), target, "xfs")
    return target


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
