"""The few statistics that the benchmarks need: a median, its confidence interval, a verdict against a bound.

The interval is the distribution-free one by order statistics: whatever the distribution, the number of values below
the true median is binomial(n, 1/2), so two values of the sorted list enclose it with a known probability. It assumes
neither a normal distribution nor the absence of outliers, and needs no random numbers.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
ENOUGH = 30  # pairs; fewer show that a benchmark runs, and decide nothing


@dataclass(frozen=True)
class Median:
    """A median with the ends of its confidence interval; low and high are None where the values are too few."""

    value: float
    low: float | None
    high: float | None
    count: int


class Verdict(enum.StrEnum):
    """What an interval says of a bound."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


def median(values: Sequence[float], confidence: float = CONFIDENCE) -> Median:
    """The median of values with its interval at that confidence; at least one value."""
    ordered = sorted(values)
    rank = _rank(len(ordered), confidence)
    low, high = (ordered[rank - 1], ordered[-rank]) if rank else (None, None)
    return Median(statistics.median(ordered), low, high, len(ordered))


def ratios(ours: Sequence[float], floor: Sequence[float]) -> list[float]:
    """The ratio of each pair. Values of one pair were measured side by side: what slowed one slowed the other."""
    return [one / other for one, other in zip(ours, floor, strict=True)]


def judge(found: Median, bound: float) -> Verdict:
    """Met if the whole interval is within the bound, missed if all of it is beyond, else undecided."""
    if found.low is None or found.high is None or found.count < ENOUGH:
        return Verdict.UNDECIDED
    if found.high <= bound:
        return Verdict.MET
    return Verdict.MISSED if found.low > bound else Verdict.UNDECIDED


def _rank(count: int, confidence: float) -> int:
    """The largest rank r so that [r-th smallest, r-th largest] encloses the median often enough; 0 if there is none."""
    allowed = (1 - confidence) / 2
    below, rank = 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > allowed:
            break
        rank += 1
    return rank
