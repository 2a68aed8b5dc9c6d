"""The benchmarks' statistics give what tables of order statistics give, and no verdict without enough pairs."""

from __future__ import annotations

import random
import statistics

import pytest

from benchmarks import harness, stats
from benchmarks.harness import Figure
from benchmarks.stats import Median, Verdict


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (10, 2), (20, 6), (30, 10), (50, 18), (100, 40)])
def test_the_interval_ends_at_the_tabulated_ranks(count: int, rank: int) -> None:
    values = list(range(1, count + 1))
    random.Random(count).shuffle(values)
    found = stats.median(values)
    assert (found.low, found.high) == (rank, count + 1 - rank)
    assert found.value == statistics.median(values)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_values_have_no_interval(count: int) -> None:
    found = stats.median([3.0] * count)
    assert (found.value, found.low, found.high) == (3.0, None, None)
    assert stats.judge(found, 100) is Verdict.UNDECIDED


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """Of a skewed distribution too: nothing about it is assumed."""
    source = random.Random(1)
    true_median = 0.6931471805599453  # of the exponential distribution
    hits = 0
    for _ in range(2000):
        found = stats.median([source.expovariate(1) for _ in range(30)])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= true_median <= found.high
    assert hits / 2000 >= 0.94


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 1.3, Verdict.MET),
        (1.0, 1.31, Verdict.UNDECIDED),
        (1.3, 1.4, Verdict.UNDECIDED),
        (1.31, 1.4, Verdict.MISSED),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, verdict: Verdict) -> None:
    assert stats.judge(Median(1.2, low, high, 30), 1.3) is verdict
    assert stats.judge(Median(1.2, low, high, 29), 1.3) is Verdict.UNDECIDED


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that becomes ten times slower half-way changes both sides, and no ratio."""
    floor = [1.0] * 15 + [10.0] * 15
    figure = Figure("x", "ms", [value * 1.2 for value in floor], floor, bound=1.3)
    assert figure.compared.value == pytest.approx(1.2)
    assert figure.verdict is Verdict.MET


def test_pairs_alternate_after_one_turn_of_each() -> None:
    turns: list[str] = []

    def side(name: str) -> harness.Sample:
        def sample() -> float:
            turns.append(name)
            return float(len(turns))

        return sample

    ours, floor = harness.pairs("test", 3, side("A"), side("B"))
    assert "".join(turns) == "AB" * 4
    assert (ours, floor) == ([3, 5, 7], [4, 6, 8])


def test_the_table_shows_every_figure() -> None:
    figures = [
        Figure("ratio", "ms", [2.0] * 30, [1.0] * 30, bound=1.5, note="twice"),
        Figure("absolute", "ms", [400.0] * 3, bound=500),
    ]
    text = harness.table(figures)
    assert "missed" in text
    assert "undecided" in text
    assert "ratio: twice" in text


def test_pairs_are_divided_among_launches() -> None:
    assert harness.split(30, 6) == [5] * 6
    assert harness.split(8, 6) == [2, 2, 1, 1, 1, 1]
    assert harness.split(2, 6) == [1, 1]
