"""The rules on half-sent calls and floods, the log that is no target, and the loop that outlives its handlers."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.acceptor.limits import Bucket, Limits
from plugins.core.acceptor.loop import READ, Loop
from plugins.core.acceptor.stats import QuietLog
from plugins.core.acceptor.streams import NEVER, judge

LIMITS = Limits(half_sent_after=0.5, half_sent_per_connection=2, half_sent_total=4, half_sent_deadline=3.0)
NOW = 100.0
WAIT = 20.0


def opened(*ages: float) -> dict[int, float]:
    """Half-sent streams by age, oldest first, numbered 1, 3, 5..."""
    return {2 * number + 1: NOW - age for number, age in enumerate(ages)}


def test_a_burst_is_left_alone_whatever_its_size() -> None:
    resets, again = judge({"a": opened(*[0.4] * 1000)}, NOW, LIMITS)
    assert resets == []
    assert again == pytest.approx(0.1)


def test_a_few_old_ones_have_until_the_deadline() -> None:
    resets, again = judge({"a": opened(1.0, 0.6)}, NOW, LIMITS)
    assert resets == []
    assert again == pytest.approx(2.0)
    resets, again = judge({"a": opened(3.0, 0.6)}, NOW, LIMITS)
    assert resets == [("a", 1)]
    assert again == pytest.approx(2.4)


def test_over_its_limit_a_connection_loses_the_oldest() -> None:
    resets, again = judge({"a": opened(2.0, 1.0, 0.9, 0.8), "b": opened(0.7)}, NOW, LIMITS)
    assert resets == [("a", 1), ("a", 3)]
    assert again == pytest.approx(2.1)


def test_over_the_total_the_connection_with_most_loses_first() -> None:
    resets, _ = judge({"a": opened(0.6), "b": opened(0.9, 0.8), "c": opened(0.7), "d": opened(0.6)}, NOW, LIMITS)
    assert resets == [("b", 1)]


def test_nothing_half_sent_needs_no_further_look() -> None:
    assert judge({}, NOW, LIMITS) == ([], NEVER)
    assert judge({"a": {}}, NOW, LIMITS) == ([], NEVER)


@given(st.dictionaries(st.integers(0, 20), st.lists(st.floats(0, 5), max_size=8)))
def test_what_is_left_is_within_the_limits(ages: dict[int, list[float]]) -> None:
    calls = {owner: opened(*sorted(each, reverse=True)) for owner, each in ages.items()}
    resets, again = judge(calls, NOW, LIMITS)
    assert len(set(resets)) == len(resets)
    left = {owner: {s: t for s, t in each.items() if (owner, s) not in resets} for owner, each in calls.items()}
    old = {owner: [t for t in each.values() if NOW - t >= 0.5] for owner, each in left.items()}
    assert all(len(each) <= LIMITS.half_sent_per_connection for each in old.values())
    assert sum(map(len, old.values())) <= LIMITS.half_sent_total
    assert all(NOW - t < LIMITS.half_sent_deadline for each in left.values() for t in each.values())
    young = {(owner, s) for owner, each in calls.items() for s, t in each.items() if NOW - t < 0.5}
    assert not young.intersection(resets)
    assert (again == NEVER) == (not any(left.values()))
    assert again >= 0


def test_a_bucket_fills_with_time_and_not_over_its_brim() -> None:
    time = [0.0]
    bucket = Bucket(10, 2, lambda: time[0])
    assert bucket.take(10)
    assert not bucket.take(1)
    time[0] = 1.0
    assert bucket.take(1)  # two came back, one was owed
    assert not bucket.take(1)
    time[0] = 1000.0
    assert bucket.take(10)
    assert not bucket.take(1)
    time[0] = 2000.0
    assert bucket.take(1)
    time[0] = 3000.0
    assert [bucket.take(1) for _ in range(21)] == [True] * 19 + [False] * 2  # it looks when empty: twice the burst


def test_a_message_is_logged_once_in_a_while_with_the_number_left_out(caplog: pytest.LogCaptureFixture) -> None:
    time = [0.0]
    log = QuietLog("a", 10, lambda: time[0])
    for _ in range(5):
        log.warn("one", uid=1)
    log.warn("other")
    time[0] = 10.0
    log.warn("one", uid=2)
    fields = [vars(record)["fields"] for record in caplog.records]
    assert fields == [{"acceptor": "a", "uid": 1}, {"acceptor": "a"}, {"acceptor": "a", "uid": 2, "left_out": 4}]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_loop_outlives_what_runs_on_it() -> None:
    broken: list[BaseException] = []
    failed: list[BaseException] = []
    seen = threading.Event()
    loop = Loop("loop", broken.append)
    bad, good = socket.socketpair(), socket.socketpair()

    def handler(_mask: int) -> None:
        loop.unwatch(bad[0])
        raise ValueError("handler")

    def late() -> None:
        raise ValueError("timer")

    loop.watch(bad[0], READ, handler, failed.append)
    loop.watch(good[0], READ, lambda _: seen.set() if good[0].recv(1) else None, failed.append)
    loop.after(0, late)
    loop.start()
    bad[1].send(b"x")
    with pytest.raises(KeyError, match="mine"):
        loop.call(lambda: dict[str, int]()["mine"])
    good[1].send(b"x")
    assert seen.wait(WAIT)
    loop.stop()
    assert [str(error) for error in broken] == ["timer"]
    assert [str(error) for error in failed] == ["handler"]
    assert loop.call(lambda: threading.current_thread()) is threading.current_thread()
    loop.release()
    for pair in (bad, good):
        for each in pair:
            each.close()
