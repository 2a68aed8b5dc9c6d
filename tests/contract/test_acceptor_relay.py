"""What goes through the acceptor arrives as it was sent, and nobody's slowness costs memory."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from plugins.core.acceptor import Acceptor, frames
from plugins.core.acceptor.loop import CHUNK
from tests.contract.acceptor_kit import ME, WAIT, Caller, RawClient, acceptor, listen, served, server, until

MANY = 16


@contextmanager
def behind(folder: Path) -> Iterator[tuple[Acceptor, RawClient, socket.socket]]:
    """An acceptor, a client that has sent its preface, and the server's end of it in the test's own hands."""
    with (
        listen(folder / "public") as listener,
        listen(folder / "backend") as backend,
        acceptor(listener, folder / "backend") as made,
        RawClient(folder / "public") as client,
    ):
        client.sock.sendall(frames.PREFACE)
        server, _ = backend.accept()
        with server:
            yield made, client, server


def test_unary_and_streaming_calls(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), Caller(public) as caller:
        assert caller.echo(b"hello") == b"hello"
        assert [int.from_bytes(reply[:4]) for reply in caller.count(b"300")] == list(range(300))
        until(lambda: acceptor.stats().streams == 0)
        assert acceptor.stats().connections == 1


def test_messages_larger_than_any_window(short_tmp: Path) -> None:
    message = os.urandom(4 << 20)
    with served(short_tmp) as (public, acceptor), Caller(public) as caller:
        for _ in range(3):
            assert caller.echo(message) == message
        assert acceptor.stats().half_sent_resets == 0


def test_many_channels_at_once(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), ExitStack() as stack, ThreadPoolExecutor(MANY) as pool:
        callers = [stack.enter_context(Caller(public)) for _ in range(MANY)]
        messages = [os.urandom(size) for size in (0, 1, 100, 20_000, 70_000)]

        def calls(caller: Caller) -> bool:
            return all(caller.echo(message) == message for message in messages * 4)

        assert all(pool.map(calls, callers))
        assert acceptor.stats().connections == MANY


def test_a_client_that_leaves_is_forgotten(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor):
        with RawClient(public) as client:
            client.greet().sock.sendall(client.headers(1))
            until(lambda: acceptor.stats().half_sent == 1)
        until(lambda: acceptor.stats().connections == 0)


def test_several_listeners_each_with_its_server(short_tmp: Path) -> None:
    with served(short_tmp) as (public, acceptor), listen(short_tmp / "more") as more, server(short_tmp / "other"):
        acceptor.add(more, str(short_tmp / "other"))
        with Caller(public) as first, Caller(short_tmp / "more") as second:
            assert first.echo(b"1") == b"1"
            assert second.echo(b"2") == b"2"
            acceptor.remove(more)
            assert second.echo(b"3") == b"3"  # its connections go on
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(str(short_tmp / "more"))
                assert first.echo(b"4") == b"4"
                assert acceptor.stats().accepted == 2


def test_a_server_that_is_not_there_ends_the_connection(short_tmp: Path) -> None:
    with listen(short_tmp / "public") as listener, acceptor(listener, short_tmp / "nothing") as made:
        with RawClient(short_tmp / "public") as client:
            client.sock.sendall(frames.PREFACE)
            assert client.next() is None
        assert made.stats().refused_backend == 1
        until(lambda: made.stats().connections == 0)


def test_what_the_server_says_last_still_arrives(short_tmp: Path) -> None:
    words = b"".join(frames.frame(frames.DATA, 0, 1, bytes(16000)) for _ in range(60))  # more than fits on the way
    with behind(short_tmp) as (made, client, server):
        assert made.stats().connections == 1
        server.settimeout(WAIT)

        def write() -> None:
            server.sendall(words)
            server.close()

        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: made.stats().buffered)
        assert [client.next() for _ in range(60)][-1] == (frames.DATA, 0, 1, bytes(16000))
        assert client.next() is None
        writer.join()
        until(lambda: made.stats().connections == 0)


def test_a_client_that_does_not_read_stops_its_server(short_tmp: Path) -> None:
    replies = 20_000  # of 1 KiB: far more than all socket buffers on the way
    wide = struct.pack(">L", 2**31 - 1 - 65535)
    with served(short_tmp) as (public, acceptor), RawClient(public) as client, Caller(public) as other:
        client.greet()
        settings = struct.pack(">HL", 4, 2**31 - 1)  # SETTINGS_INITIAL_WINDOW_SIZE
        client.sock.sendall(frames.frame(frames.SETTINGS, 0, 0, settings) + frames.frame(8, 0, 0, wide))
        client.sock.sendall(client.headers(1, method="Count") + client.body(1, str(replies).encode()))
        until(lambda: acceptor.stats().buffered)
        assert acceptor.stats().buffered <= 2 * CHUNK
        assert other.echo(b"not my concern") == b"not my concern"
        size = 0
        while found := client.next():
            if found[2] == 1 and found[0] == frames.DATA:
                size += len(found[3])
            if found[2] == 1 and found[1] & frames.END_STREAM and found[0] == frames.HEADERS:
                break
        assert size == replies * (1024 + 5)
        assert acceptor.stats().buffered == 0


@pytest.mark.parametrize("ending", ["client", "server"])
def test_a_server_that_does_not_read_stops_its_client(short_tmp: Path, ending: str) -> None:
    with behind(short_tmp) as (made, client, server):
        client.sock.setblocking(False)
        client.sock.send(b"\xff\xff\xff\xab\0\0\0\0\0")  # one frame of 16 MiB, of a kind that is to be ignored

        def stuck() -> bool:
            try:
                client.sock.send(bytes(16384))
            except BlockingIOError:
                return made.stats().buffered > 0
            return False

        until(stuck)
        assert made.stats().buffered <= 2 * CHUNK
        (client.sock if ending == "client" else server).close()
        until(lambda: made.stats().connections == 0)


def test_it_can_be_closed_before_it_was_started_and_twice(short_tmp: Path) -> None:
    made = Acceptor(ME)
    with listen(short_tmp / "public") as listener:
        made.add(listener, str(short_tmp / "backend"))
        made.close()
        made.close()
        assert (short_tmp / "public").exists()
