"""Locks, broadcast, commands, log lines: the small parts that everything uses."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from plugins.core import command, log
from plugins.core.broadcast import Broadcast, Closed, Subscription
from plugins.core.errors import Aborted, DeadlineExceeded
from plugins.core.locks import KeyedLocks


def test_a_held_key_is_refused_at_once_and_free_after_an_error() -> None:
    locks = KeyedLocks("volume")
    with pytest.raises(ZeroDivisionError), locks.hold("a"):
        with pytest.raises(Aborted, match="volume 'a'"), locks.hold("b", "a"):
            pytest.fail("entered with a key that is held")
        with locks.hold("b"):  # the refused attempt took nothing
            assert locks.held() == {"a", "b"}
        raise ZeroDivisionError
    assert locks.held() == frozenset()


def test_one_of_many_threads_gets_the_key() -> None:
    locks, barrier, release = KeyedLocks("volume"), threading.Barrier(8), threading.Event()
    outcomes: list[str] = []

    def attempt() -> None:
        barrier.wait()
        try:
            with locks.hold("v"):
                outcomes.append("held")
                release.wait(10)
        except Aborted:
            outcomes.append("aborted")
            if outcomes.count("aborted") == 7:
                release.set()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["aborted"] * 7 + ["held"]


def test_every_subscriber_sees_the_newest_and_a_slow_one_skips() -> None:
    source = Broadcast("one")
    quick, slow = source.subscribe(), source.subscribe()
    assert quick.next(0) == slow.next(0) == "one"
    assert quick.next(0) is None
    source.publish("two")
    assert quick.next(0) == "two"
    source.publish("three")
    assert [quick.next(0), slow.next(0), slow.next(0)] == ["three", "three", None]


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_a_waiting_subscriber_is_woken(end: str) -> None:
    source = Broadcast(1)
    subscription = source.subscribe()
    subscription.next(0)
    ended = threading.Event()

    def wait(waiting: Subscription[int]) -> None:
        with pytest.raises(Closed):
            waiting.next()
        ended.set()

    thread = threading.Thread(target=wait, args=(subscription,))
    thread.start()
    source.close() if end == "close" else subscription.cancel()
    thread.join(10)
    assert ended.is_set()
    if end == "close":
        with pytest.raises(Closed):
            source.subscribe().next(0)


def test_a_command_gives_its_output_and_its_failure_tells_the_log_not_the_caller() -> None:
    result = command.run(
        [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read())"], timeout=30, stdin=b"hi"
    )
    assert result.text == "hi"
    program = "import sys; sys.stderr.write('internal /path'); sys.exit(3)"
    with pytest.raises(command.CommandFailed, match="exit code 3") as error:
        command.run([sys.executable, "-c", program], timeout=30)
    assert "internal /path" in error.value.detail
    assert "internal /path" not in error.value.message
    assert command.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 3


def test_a_command_that_hangs_is_killed_and_one_that_is_missing_is_named() -> None:
    with pytest.raises(DeadlineExceeded, match="did not end within"):
        command.run([sys.executable, "-c", "import threading; threading.Event().wait()"], timeout=0.5)
    with pytest.raises(command.CommandMissing, match="no-such-program"):
        command.run(["no-such-program"], timeout=1)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.setup("info", stream)
    yield stream
    logging.getLogger(log.ROOT).handlers.clear()


def test_log_lines_are_json_with_fields_and_request(lines: io.StringIO) -> None:
    log.request_id.set("abc")
    logger = log.get("csi.volumes")
    logger.info('made "it"\nwell', volume_id="v1", size_bytes=5)
    logger.debug("not shown")
    try:
        raise ValueError("why")
    except ValueError as error:
        logger.error("failed", exc=error)
    log.request_id.set("")
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert first["message"] == 'made "it"\nwell'
    assert (first["level"], first["logger"], first["request"]) == ("info", "csi.volumes", "abc")
    assert (first["volume_id"], first["size_bytes"]) == ("v1", 5)
    assert first["time"].endswith("Z")
    assert "ValueError: why" in second["error"]
