"""What one client does badly costs itself, and the others a bounded moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from plugins.core.acceptor import Limits, frames
from tests.contract.acceptor_kit import WAIT, Caller, RawClient, served, until

WORKERS = 8
HALF_SENT = Limits(half_sent_after=0.3, half_sent_per_connection=2, half_sent_total=4, half_sent_deadline=1.0)
BOUND = HALF_SENT.half_sent_after + 0.7  # the sweep, and room for a busy machine


def open_half(client: RawClient, count: int = 64) -> None:
    """Calls whose body never comes to its end: each holds a worker of the server."""
    body = frames.frame(frames.DATA, 0, 0, b"\0\0")
    for number in range(count):
        stream = 2 * number + 1
        client.sock.sendall(client.headers(stream) + body[:5] + stream.to_bytes(4) + body[9:])


def longest(caller: Caller, seconds: float) -> float:
    """The longest of the calls one after the other, begun within so many seconds."""
    end, worst = time.monotonic() + seconds, 0.0
    while (began := time.monotonic()) < end:
        assert caller.echo(b"honest", timeout=WAIT) == b"honest"
        worst = max(worst, time.monotonic() - began)
    return worst


def test_calls_that_are_never_finished_do_not_stop_the_others(short_tmp: Path) -> None:
    with served(short_tmp, HALF_SENT, WORKERS) as (public, acceptor), Caller(public) as caller:
        assert caller.echo(b"before") == b"before"
        with RawClient(public) as client:
            client.greet()
            open_half(client)
            until(lambda: acceptor.stats().half_sent == 64)
            assert longest(caller, 1.2) < BOUND
            until(lambda: acceptor.stats().half_sent_resets == 64)
            assert acceptor.stats().half_sent == 0
            assert client.until(frames.RST_STREAM, 1) == frames.ENHANCE_YOUR_CALM.to_bytes(4)
            client.sock.sendall(client.headers(1001) + client.body(1001))  # the connection itself goes on
            assert b"x" in client.until(frames.DATA, 1001)


def test_nor_do_they_from_many_connections(short_tmp: Path) -> None:
    with served(short_tmp, HALF_SENT, WORKERS) as (public, acceptor), Caller(public) as caller, ExitStack() as stack:
        assert caller.echo(b"before") == b"before"
        for _ in range(16):
            open_half(stack.enter_context(RawClient(public)).greet(), 2)  # each within its own limit
        assert longest(caller, 1.2) < BOUND
        until(lambda: acceptor.stats().half_sent == 0)


def test_nor_where_the_client_stops_inside_a_frame(short_tmp: Path) -> None:
    with served(short_tmp, HALF_SENT, WORKERS) as (public, acceptor), Caller(public) as caller:
        assert caller.echo(b"before") == b"before"
        with RawClient(public) as client:
            client.greet()
            open_half(client)
            client.sock.sendall(frames.frame(frames.DATA, 0, 1, bytes(1000))[:500])
            assert longest(caller, 0.6) < BOUND
            assert frames.GOAWAY in client.ended()
        assert acceptor.stats().calmed == 1


def test_nor_where_the_last_frame_never_ends(short_tmp: Path) -> None:
    """The header of a frame that would end the call is no end of it."""
    with served(short_tmp, HALF_SENT, WORKERS) as (public, acceptor), Caller(public) as caller, ExitStack() as stack:
        assert caller.echo(b"before") == b"before"
        for _ in range(16):
            client = stack.enter_context(RawClient(public)).greet()
            client.sock.sendall(client.headers(1) + client.body(1, bytes(1000))[:100])
        until(lambda: acceptor.stats().half_sent == 16)
        assert longest(caller, 1.2) < BOUND
        until(lambda: acceptor.stats().half_sent == 0)


def test_a_client_that_goes_on_like_that_loses_its_connection(short_tmp: Path) -> None:
    limits = Limits(half_sent_after=0.05, half_sent_total=0, abandoned_burst=40, abandoned_per_second=1)
    with served(short_tmp, limits, WORKERS) as (public, acceptor), RawClient(public) as client:
        open_half(client.greet(), 12)
        assert frames.GOAWAY in client.ended()
        assert acceptor.stats().calmed == 1
        with RawClient(public) as again:
            assert again.next() is None  # coming back is no way out
        assert acceptor.stats().refused_limit == 1


def test_a_few_unfinished_calls_have_until_the_deadline(short_tmp: Path) -> None:
    with served(short_tmp, HALF_SENT, WORKERS) as (public, acceptor), RawClient(public) as client:
        client.greet()
        began = time.monotonic()
        open_half(client, 2)
        client.until(frames.RST_STREAM, 1)
        assert time.monotonic() - began >= HALF_SENT.half_sent_deadline
        assert acceptor.stats().calmed == 0


def test_a_burst_of_honest_calls_on_one_channel_is_left_alone(short_tmp: Path) -> None:
    calls = 200
    with (
        served(short_tmp, workers=WORKERS) as (public, acceptor),
        Caller(public) as caller,
        ThreadPoolExecutor(calls) as pool,
    ):
        message = bytes(4000)  # together far more than the connection's first window
        futures = [pool.submit(caller.echo, message, timeout=WAIT) for _ in range(calls)]
        assert all(future.result() == message for future in futures)
        assert acceptor.stats().half_sent_resets == acceptor.stats().calmed == 0


def resets(client: RawClient) -> bytes:
    return b"".join(
        client.headers(stream, end=True) + frames.rst_stream(stream, frames.CANCEL) for stream in range(1, 2001, 2)
    )


def unknown_frames(_client: RawClient) -> bytes:
    return frames.frame(0xAB, 0, 0, b"") * 3000


def streams(client: RawClient) -> bytes:
    return b"".join(client.headers(stream, method="Hold") + client.body(stream) for stream in range(1, 141, 2))


@pytest.mark.parametrize("flood", [resets, unknown_frames, streams])
def test_a_flood_ends_the_connection_and_no_other(short_tmp: Path, flood: Callable[[RawClient], bytes]) -> None:
    limits = Limits(streams=64, abandoned_burst=100, abandoned_per_second=1, frames_burst=2500, frames_per_second=1)
    with served(short_tmp, limits) as (public, acceptor), Caller(public) as caller, RawClient(public) as client:
        assert caller.echo(b"before") == b"before"
        client.greet()
        try:
            client.sock.sendall(flood(client))
        except OSError:
            pass  # closed before all of it was taken
        assert frames.GOAWAY in client.ended()
        assert acceptor.stats().calmed == 1
        assert caller.echo(b"after", timeout=WAIT) == b"after"
        assert acceptor.stats().connections == 1


def test_cancelling_calls_now_and_then_is_no_flood(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller:
        for _ in range(100):
            replies = caller.count(b"1000")
            assert next(replies)
            replies.cancel()
        assert caller.echo(b"after", timeout=WAIT) == b"after"
        assert acceptor.stats().calmed == 0


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", frames.PREFACE[:-1] + b"!"])
def test_what_is_not_http2_is_closed_at_once(short_tmp: Path, words: bytes) -> None:
    with served(short_tmp) as (public, acceptor), RawClient(public) as client:
        client.sock.sendall(words)
        assert client.next() is None
        assert acceptor.stats().garbage == 1


def test_garbage_behind_the_preface_ends_that_connection_only(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller, RawClient(public) as client:
        client.sock.sendall(frames.PREFACE + b"\xff" * 64)
        client.ended()
        assert caller.echo(b"x") == b"x"
        until(lambda: acceptor.stats().connections == 1)


def test_a_preface_byte_by_byte_is_fine(short_tmp: Path) -> None:
    with served(short_tmp) as (public, _), RawClient(public) as client:
        for byte in frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b""):
            client.sock.sendall(bytes([byte]))
        client.until(frames.SETTINGS)


def test_silence_is_not_listened_to_forever(short_tmp: Path) -> None:
    with served(short_tmp, Limits(preface_timeout=0.1)) as (public, acceptor), RawClient(public) as client:
        assert client.next() is None
        until(lambda: acceptor.stats().connections == 0)


def wakeups() -> int:
    """How often the acceptor's thread has slept, by the kernel's count."""
    (thread,) = (each for each in threading.enumerate() if each.name == "acceptor-test")
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_idle_connections_wake_nobody(short_tmp: Path) -> None:
    with served(short_tmp, Limits(preface_timeout=0.2)) as (public, _), RawClient(public) as client:
        client.greet().sock.sendall(client.headers(1) + client.body(1))
        client.until(frames.DATA, 1)
        threading.Event().wait(0.5)  # the one look at those without a preface is over
        before = wakeups()
        threading.Event().wait(1.0)
        assert wakeups() == before
