"""What every benchmark is built from: two sides measured in turn, a figure, a table and a JSON file.

A benchmark is a function from `Options` to figures. It measures our side and a floor (or a peer) in alternating pairs,
A B A B, so that whatever else the machine does meets both. What is compared is the median of the ratios of the pairs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks import stats
from benchmarks.stats import Median, Verdict

Sample = Callable[[], float]
"""Measures once; returns one value in the figure's unit."""


@dataclass(frozen=True)
class Options:
    """What a benchmark may be told.

    pairs: how many pairs (or single values, where nothing is compared).
    peer_command: starts a peer that serves the same contract; {socket} in it stands for the socket path.
    peer_socket: a peer that runs already.
    """

    pairs: int = stats.ENOUGH
    peer_command: str = ""
    peer_socket: str = ""


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, beside what, and what that says of a bound.

    ours, floor: the values, pair by pair; floor is empty for an absolute figure.
    bound: on the ratio, or (without a floor) on the value; None: shown only.
    note: what a reader must know to use it.
    """

    name: str
    unit: str
    ours: Sequence[float]
    floor: Sequence[float] = ()
    bound: float | None = None
    note: str = ""
    against: str = "floor"

    @property
    def compared(self) -> Median:
        """What the bound is on: the median ratio of the pairs, or the median value."""
        return stats.median(stats.ratios(self.ours, self.floor) if self.floor else self.ours)

    @property
    def verdict(self) -> Verdict | None:
        """None where there is no bound."""
        return None if self.bound is None else stats.judge(self.compared, self.bound)


@dataclass
class Progress:
    """A counter on standard error, rewritten in place on a terminal, silent elsewhere."""

    name: str
    total: int
    done: int = 0
    shown: bool = field(default_factory=sys.stderr.isatty)

    def step(self) -> None:
        """One more."""
        self.done += 1
        if self.shown:
            end = "\n" if self.done == self.total else ""
            print(f"\r  {self.name}: {self.done} of {self.total}", end=end, file=sys.stderr, flush=True)


def pairs(name: str, count: int, ours: Sample, floor: Sample) -> tuple[list[float], list[float]]:
    """Measure both sides in turn, count times, after one unmeasured turn of each."""
    ours(), floor()  # first use fills caches, starts threads, opens connections
    progress = Progress(name, count)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        found[0].append(ours())
        found[1].append(floor())
        progress.step()
    return found


def split(count: int, launches: int) -> list[int]:
    """Count divided among several launches of the servers.

    Where the kernel puts the threads of a process stays for its life and is worth several per cent of a call, so that
    one launch would measure that too.
    """
    each, more = divmod(count, launches)
    return [size for number in range(launches) if (size := each + (number < more))]


def singles(name: str, count: int, ours: Sample) -> list[float]:
    """Measure one side count times, after one unmeasured time."""
    ours()
    progress = Progress(name, count)
    found = []
    for _ in range(count):
        found.append(ours())
        progress.step()
    return found


def p50(call: Callable[[], object], calls: int) -> Sample:
    """A sample that makes a batch of calls and returns the median duration of one, in ms."""

    def batch() -> float:
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return stats.median(times).value * 1000

    return batch


def table(figures: Iterable[Figure]) -> str:
    """The figures for a person."""
    rows: list[tuple[str, ...]] = [("figure", "ours", "floor", "compared (95 %)", "bound", "verdict", "n")]
    notes = []
    for figure in figures:
        floor = f"{_short(stats.median(figure.floor).value)}" if figure.floor else "-"
        if figure.floor and figure.against != "floor":
            floor += f" ({figure.against})"
        middle = figure.compared
        what = "" if figure.floor else f" {figure.unit}"
        low, high = middle.low, middle.high
        between = f"{_short(low)} to {_short(high)}" if low is not None and high is not None else "too few"
        compared = f"{_short(middle.value)} ({between}){what}"
        ours = f"{_short(stats.median(figure.ours).value)} {figure.unit}"
        bound = "-" if figure.bound is None else f"{figure.bound:g}"
        rows.append((figure.name, ours, floor, compared, bound, figure.verdict or "-", str(middle.count)))
        notes += [f"  {figure.name.partition(':')[0]}: {figure.note}"] if figure.note else []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *dict.fromkeys(notes)])


def save(figures: Sequence[Figure], file: Path) -> None:
    """Everything that was measured, every single value included, and on what."""
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {**asdict(figure), "compared": asdict(figure.compared), "verdict": figure.verdict} for figure in figures
    ]
    file.write_text(json.dumps({"machine": machine(), "figures": entries}, indent=1, default=str) + "\n")


def machine() -> dict[str, object]:
    """What the figures depend on besides the code."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "load_average": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
