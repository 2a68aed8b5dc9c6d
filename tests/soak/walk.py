"""A long random walk through the lives of volumes, with kills on the way. A seed gives the same walk again."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.soak.life import KINDS, Figures, Known, Life

_MOST = 6  # volumes, and snapshots: a small world meets itself often
_KILLED = 0.35  # of the steps begin with a daemon that will end itself in them


class Walk:
    """Steps, each drawn from those that are possible."""

    def __init__(self, life: Life, rng: random.Random) -> None:
        self._life = life
        self._rng = rng

    def run(self, steps: int, progress: Callable[[str], None] = lambda _: None) -> Figures:
        """So many steps, then everything is taken away."""
        for number in range(steps):
            self._step()
            self._life.check()
            if (number + 1) % 100 == 0:
                progress(str(self._life.figures))
        self._life.finish()
        return self._life.figures

    def _step(self) -> None:
        name, volume, call = self._rng.choice(self._possible())
        if self._rng.random() < _KILLED:
            points = self._life.faults(name, volume)
            self._life.arm(f"{self._rng.choice(points)}")
        call()

    def _possible(self) -> list[tuple[str, Known | None, Callable[[], None]]]:
        life, rng = self._life, self._rng
        found: list[tuple[str, Known | None, Callable[[], None]]] = []
        if len(life.volumes) < _MOST:
            found.append(("create", None, lambda: life.create(rng.choice(KINDS))))
            if life.snapshots:
                shot = rng.choice(list(life.snapshots))
                found.append(("copy", None, lambda: life.copy(shot, life.snapshots[shot])))
        if life.snapshots:
            old = rng.choice(list(life.snapshots))
            found.append(("delete_snapshot", None, lambda: life.delete_snapshot(old)))
        for volume in rng.sample(life.volumes, min(3, len(life.volumes))):
            found += self._of(volume)
        return found

    def _of(self, volume: Known) -> list[tuple[str, Known | None, Callable[[], None]]]:
        life = self._life
        found: list[tuple[str, Known | None, Callable[[], None]]] = []

        def add(name: str, call: Callable[[], None]) -> None:
            found.append((name, volume, call))

        add("stage", lambda: life.stage(volume))
        add("delete", lambda: life.delete(volume))
        add("grow", lambda: life.grow(volume))
        if volume.staged:
            read_only = self._rng.random() < 0.3
            add("publish", lambda: life.publish(volume, read_only=read_only))
        if volume.published:
            add("write", lambda: life.write(volume))
            add("write", lambda: life.write(volume))
            add("unpublish", lambda: life.unpublish(volume))
        elif volume.staged:
            add("unstage", lambda: life.unstage(volume))
        if len(life.snapshots) < _MOST:
            add("snapshot", lambda: life.snapshot(volume))
        if len(life.volumes) < _MOST:
            add("copy", lambda: life.copy(volume.id, volume.content))
        return found
