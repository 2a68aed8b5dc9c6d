"""What random requests may speak of: ids that a daemon gave, and paths below folders of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

STAGINGS = 64


@dataclass
class World:
    """What requests may speak of. outside: a folder that no request may reach."""

    root: Path
    node: str
    volumes: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    raw: set[str] = field(default_factory=set)
    """Volumes that were made for use as devices."""

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def staging(self, number: int) -> Path:
        """A folder that volumes may be staged at."""
        return self.root / "kubelet" / "plugins" / f"staging-{number}"

    def staging_of(self, volume: str) -> Path:
        """Where well-meant requests stage a volume."""
        return self.staging(sum(volume.encode()) % STAGINGS)

    def target_of(self, volume: str, number: int) -> Path:
        """Where they publish it."""
        return self.target(sum(volume.encode()) % STAGINGS * 2 + number % 2)

    def target(self, number: int) -> Path:
        """A path that volumes may be published at; it does not exist before."""
        return self.root / "kubelet" / "pods" / f"pod-{number}"
