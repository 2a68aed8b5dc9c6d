"""What a look at the node brings up, and where it looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that does not fit. kind: for machines; subject: a path or an id; advice: what a person can do."""

    kind: str
    subject: str
    message: str
    advice: str


@dataclass(frozen=True)
class Places:
    """Where to look. state_dir: of the daemon; pool, image: as configured; roots: where targets lie."""

    state_dir: Path
    pool: Path
    image: Path
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class Report:
    """What was found. notes: what could not be looked at, or is as it should be though it may surprise."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    served: bool
