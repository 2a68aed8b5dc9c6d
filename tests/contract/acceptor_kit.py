"""What the acceptor's tests share: a gRPC server behind an acceptor, channels that do not share, a raw client."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from plugins.core.acceptor import Acceptor, Limits, PeerPolicy, frames

ME = PeerPolicy(uids=frozenset({os.getuid()}))
WAIT = 20.0  # seconds after which something that should have happened has not
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", -1),
)


def until(what: Callable[[], object]) -> None:
    """Wait for something that another thread brings about; fails if it does not come."""
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, "it did not come"
        threading.Event().wait(0.002)


def listen(path: Path) -> socket.socket:
    """A public socket as the daemon binds it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(512)
    return listener


@contextmanager
def server(backend: Path, workers: int = 8, hold: threading.Event | None = None) -> Iterator[None]:
    """A gRPC server with Echo, Count (a reply per byte asked for) and Hold (one reply, then until `hold`)."""

    def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
        return request

    def count(request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield number.to_bytes(4) * 256

    def keep(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        gone = hold or threading.Event()
        context.add_callback(gone.set)
        yield request
        gone.wait(WAIT)

    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Hold": grpc.unary_stream_rpc_method_handler(keep),
    }
    pool = ThreadPoolExecutor(workers)
    grpc_server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    grpc_server.add_insecure_port(f"unix:{backend}")
    grpc_server.start()
    try:
        yield
    finally:
        grpc_server.stop(0).wait()
        pool.shutdown()


@contextmanager
def acceptor(listener: socket.socket, backend: Path, limits: Limits | None = None) -> Iterator[Acceptor]:
    """An acceptor that lets in whoever runs the tests."""
    made = Acceptor(ME, limits or Limits(), name="test")
    made.add(listener, str(backend))
    made.start()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def served(folder: Path, limits: Limits | None = None, workers: int = 8) -> Iterator[tuple[Path, Acceptor]]:
    """All of it: the public path, and the acceptor behind it."""
    public, backend = folder / "public", folder / "backend"
    with server(backend, workers), listen(public) as listener, acceptor(listener, backend, limits) as made:
        yield public, made


class Caller:
    """A channel, and its calls with bytes for messages. No retries, no waiting for a server."""

    def __init__(self, path: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self.echo: Callable[..., bytes] = self.channel.unary_unary("/test.Test/Echo")
        self.count: Callable[..., Any] = self.channel.unary_stream("/test.Test/Count")
        self.hold: Callable[..., Any] = self.channel.unary_stream("/test.Test/Hold")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


class RawClient:
    """An HTTP/2 client that does as it is told, well or badly. Header fields are sent as literals."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def greet(self) -> RawClient:
        """Preface and SETTINGS, and the answer to the server's."""
        self.sock.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b""))
        self.until(frames.SETTINGS)
        self.sock.sendall(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        return self

    def headers(self, stream: int, *, end: bool = False, method: str = "Echo") -> bytes:
        """HEADERS that open a call."""
        path = f"/test.Test/{method}".encode()
        block = b"\x83\x86" + b"\x04" + bytes([len(path)]) + path + b"\x01\x09localhost"
        block += b"\x0f\x10\x10application/grpc" + b"\x00\x02te\x08trailers"
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        return frames.frame(frames.HEADERS, flags, stream, block)

    def body(self, stream: int, message: bytes = b"x") -> bytes:
        """DATA with one whole message, and the end of the client's side."""
        payload = b"\0" + struct.pack(">L", len(message)) + message
        return frames.frame(frames.DATA, frames.END_STREAM, stream, payload)

    def answer(self, ping: bytes) -> None:
        """Acknowledge a PING."""
        self.sock.sendall(frames.frame(frames.PING, frames.ACK, 0, ping))

    def next(self) -> tuple[int, int, int, bytes] | None:
        """The next frame: kind, flags, stream, payload; None at the end of the connection."""
        head = self._exactly(frames.HEADER_SIZE)
        if head is None:
            return None
        high, low, kind, flags, stream = struct.unpack(">HBBBL", head)
        payload = self._exactly(high << 8 | low)
        assert payload is not None, "the connection ended inside a frame"
        return kind, flags, stream, payload

    def until(self, kind: int, stream: int = 0) -> bytes:
        """Read up to a frame of that kind; returns its payload."""
        while found := self.next():
            if found[0] == kind and found[2] == stream:
                return found[3]
        raise ConnectionError("the connection ended")

    def ended(self) -> list[int]:
        """Read to the end; the kinds of the frames that came before it."""
        kinds = []
        while found := self.next():
            kinds.append(found[0])
        return kinds

    def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._buffer, "the connection ended inside a frame"
                return None
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
