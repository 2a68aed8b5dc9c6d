"""A hand-over costs no call: who is connected is sent elsewhere, who connects waits for the next process."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from plugins.core.acceptor import Acceptor, Limits, frames
from plugins.core.acceptor.farewell import PING
from tests.contract.acceptor_kit import WAIT, Caller, RawClient, acceptor, listen, served, server, until

CALLERS = 8
HANDOVERS = 10
CALLS_BETWEEN = 30
NOT_YET = frames.LAST_STREAM.to_bytes(4) + bytes(4)  # GOAWAY: no stream is refused, no error


class Traffic:
    """Callers that never stop, never retry and never wait for a server to come."""

    def __init__(self, callers: list[Caller]) -> None:
        self.answered = [0] * CALLERS
        self.failed: collections.Counter[str] = collections.Counter()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, callers[number % len(callers)]))
            for number in range(CALLERS)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def flows(self) -> None:
        """Wait until calls have been answered since."""
        goal = sum(self.answered) + CALLS_BETWEEN
        until(lambda: sum(self.answered) >= goal or self.failed)

    def _run(self, number: int, caller: Caller) -> None:
        while not self._over.is_set():
            try:
                assert caller.echo(b"x" * 100, timeout=WAIT) == b"x" * 100
                self.answered[number] += 1
            except grpc.RpcError as error:
                self.failed[str(error)] += 1


@pytest.mark.parametrize("channels", [1, CALLERS], ids=["one-channel", "a-channel-each"])
def test_no_call_fails_while_one_process_follows_another(short_tmp: Path, channels: int) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listen(short_tmp / "public"))
        backends = [short_tmp / "one", short_tmp / "two"]
        for backend in backends:
            stack.enter_context(server(backend, workers=CALLERS))
        callers = [stack.enter_context(Caller(short_tmp / "public")) for _ in range(channels)]
        serving = stack.enter_context(ExitStack())
        old = serving.enter_context(acceptor(listener, backends[0]))
        with Traffic(callers) as traffic:
            for number in range(HANDOVERS):
                traffic.flows()
                assert old.drain(WAIT)
                assert old.stats().connections == 0
                following = ExitStack()
                old = following.enter_context(acceptor(listener, backends[number % 2]))
                serving.close()
                serving = stack.enter_context(following)
            traffic.flows()
        assert traffic.failed == {}
        assert old.stats().accepted >= channels


@contextmanager
def draining(acceptor: Acceptor, deadline: float = WAIT) -> Iterator[list[bool]]:
    """A drain under way; its answer is in the list afterwards."""
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(acceptor.drain(deadline)))
    thread.start()
    yield answer
    thread.join(WAIT)


def test_a_drain_waits_for_a_stream_to_end(short_tmp: Path) -> None:
    hold = threading.Event()
    with (
        server(short_tmp / "backend", hold=hold),
        listen(short_tmp / "public") as listener,
        acceptor(listener, short_tmp / "backend") as made,
        Caller(short_tmp / "public") as caller,
    ):
        replies = caller.hold(b"first")
        assert next(replies) == b"first"
        with draining(made) as answer:
            assert not hold.wait(0.2)
            assert not answer
            hold.set()
            assert list(replies) == []
        assert answer == [True]


def test_at_the_deadline_the_rest_is_closed(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller:
        replies = caller.hold(b"first")
        assert next(replies) == b"first"
        assert not acceptor.drain(0.2)
        with pytest.raises(grpc.RpcError):
            next(replies)
        assert acceptor.stats().connections == 0
        assert acceptor.stats().cut == 1


def test_a_process_can_take_everything_back(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller, Caller(public) as other:
        replies = caller.hold(b"first")
        assert next(replies) == b"first"
        with draining(acceptor) as answer, ThreadPoolExecutor(1) as pool:
            call = pool.submit(other.echo, b"made while nobody accepts", timeout=WAIT)
            until(lambda: acceptor.stats().connections == 1)
            acceptor.resume()
            assert call.result(WAIT) == b"made while nobody accepts"
        assert answer == [False]
        assert acceptor.stats().cut == 0
        assert not replies.done()
        replies.cancel()


def test_a_resumed_acceptor_can_drain_again(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller:
        for _ in range(3):
            assert caller.echo(b"x", timeout=WAIT) == b"x"
            assert acceptor.drain(WAIT)
            acceptor.resume()


def test_the_goodbye_in_full(short_tmp: Path) -> None:
    """What a client sees, and that one which takes its time (grpc-go closes by itself) is waited for."""
    with served(short_tmp) as (public, acceptor), RawClient(public) as client:
        client.greet().sock.sendall(client.headers(1) + client.body(1))
        with draining(acceptor) as answer:
            assert client.until(frames.GOAWAY) == NOT_YET
            assert client.until(frames.PING) == PING
            client.sock.sendall(client.headers(3) + client.body(3))  # begun before it read the GOAWAY
            client.answer(PING)
            assert b"x" in client.until(frames.DATA, 3)
            assert client.until(frames.PING) == PING
            assert not answer
            client.answer(PING)
            assert client.until(frames.GOAWAY) == (3).to_bytes(4) + bytes(4)
            assert client.next() is None
        assert answer == [True]


def test_a_client_that_has_said_nothing_yet_still_gets_its_call(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), RawClient(public) as client:
        until(lambda: acceptor.stats().connections == 1)
        with draining(acceptor) as answer:
            client.sock.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b""))
            first = client.next()
            assert first is not None and first[0] == frames.SETTINGS
            client.sock.sendall(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
            client.sock.sendall(client.headers(1) + client.body(1))
            assert client.until(frames.GOAWAY) == NOT_YET
            assert client.until(frames.PING) == PING
            client.answer(PING)
            assert b"x" in client.until(frames.DATA, 1)
            assert client.until(frames.PING) == PING
            client.answer(PING)
            assert client.ended() == [frames.GOAWAY]
        assert answer == [True]


def test_a_client_without_calls_is_told_after_a_moment(short_tmp: Path) -> None:
    with served(short_tmp, Limits(settle=0.05)) as (public, acceptor), RawClient(public) as client:
        client.greet()
        with draining(acceptor) as answer:
            for _ in range(2):
                assert client.until(frames.PING) == PING
                client.answer(PING)
            assert client.ended() == [frames.GOAWAY]
        assert answer == [True]


def test_a_client_that_never_says_anything_is_given_up(short_tmp: Path) -> None:
    with served(short_tmp, Limits(preface_timeout=0.1)) as (public, acceptor), RawClient(public) as client:
        until(lambda: acceptor.stats().connections == 1)
        assert acceptor.drain(WAIT)
        assert client.next() is None


def test_who_connects_during_a_drain_is_left_to_the_next_process(short_tmp: Path) -> None:
    backend = short_tmp / "backend"
    with (
        server(backend),
        listen(short_tmp / "public") as listener,
        acceptor(listener, backend) as first,
        RawClient(short_tmp / "public") as client,
    ):
        until(lambda: first.stats().accepted == 1)
        client.sock.close()
        assert first.drain(WAIT)
        with RawClient(short_tmp / "public") as waiting:
            waiting.sock.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b""))
            with acceptor(listener, backend) as second:
                waiting.until(frames.SETTINGS)
                assert second.stats().accepted == first.stats().accepted == 1
            assert waiting.ended()[-1] == frames.GOAWAY  # closing tells the client what was served
