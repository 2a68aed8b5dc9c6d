"""Two sockets and the bytes between them, with back-pressure; what the bytes mean is not known here."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import Final

from plugins.core.acceptor.frames import PREFACE
from plugins.core.acceptor.loop import GONE, READ, WRITE, Loop
from plugins.core.acceptor.pipe import Pipe

_LAST_WORDS: Final = 5.0  # seconds a client gets to read what the server sent before it closed


class Relay(ABC):
    """Reads one chunk per event and tries the write at once: four system calls per chunk at most.

    While one side does not take what is `pending` for it, the other side is not read. Neither
    direction ever waits for the other one, so they cannot lock each other up.
    """

    __slots__ = (
        "_backend",
        "_backend_mask",
        "_buffer",
        "_client",
        "_client_mask",
        "_loop",
        "_mute",
        "_view",
        "closed",
        "down",
        "up",
    )

    def __init__(self, loop: Loop, client: socket.socket) -> None:
        """client: accepted, non-blocking, owned from here on."""
        self._loop = loop
        self._buffer = loop.buffer
        self._view = loop.view
        self._client = client
        self._client_mask = READ
        self._backend: socket.socket | None = None
        self._backend_mask = 0
        self._mute = False  # the client is not listened to any more: the server has closed
        self.down = Pipe(client)
        self.up: Pipe | None = None  # until the server is connected
        self.closed = False
        loop.watch(client, READ, self._on_client, self._failed)

    @abstractmethod
    def _from_client(self, data: memoryview) -> None:
        """A chunk from the client. It is valid during this call only."""

    @abstractmethod
    def _from_server(self, data: memoryview) -> None:
        """A chunk from the server. It is valid during this call only."""

    @abstractmethod
    def _flushed(self) -> None:
        """Something pending has gone out."""

    @abstractmethod
    def _failed(self, error: BaseException) -> None:
        """One of the above raised."""

    @abstractmethod
    def _ended(self) -> None:
        """Both sockets are closed."""

    def connect(self, path: str, name: bytes) -> Pipe:
        """Connect to the server's Unix socket; `up` leads there from now on.

        name: abstract name for our end; the server sees it as its peer.

        Raises:
            OSError: it is not there or takes no more connections.
        """
        backend = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            backend.bind(name)
            backend.connect(path)
        except OSError:
            backend.close()
            raise
        self._backend = backend
        self._backend_mask = READ
        self._loop.watch(backend, READ, self._on_backend, self._failed)
        self.up = Pipe(backend, skip=len(PREFACE))
        return self.up

    @property
    def buffered(self) -> int:
        """Bytes held because their reader is slow: at most a chunk and some frames of ours each way."""
        return len(self.down.pending) + (len(self.up.pending) if self.up is not None else 0)

    def close(self) -> None:
        """Close both sockets. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._client_mask = 0
        self._loop.discard(self._client)
        backend, self._backend = self._backend, None
        if backend is not None:
            self._loop.discard(backend)
        self._ended()

    def _on_client(self, mask: int) -> None:
        if mask != READ:
            if mask & WRITE:
                self._flush(self.down)
            if not mask & READ:
                if mask & GONE:
                    self.close()
                return
        if not self._client_mask & READ:
            return  # paused or closed since this event was reported
        try:
            size = self._client.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._from_client(self._view[:size])
        else:
            self.close()

    def _on_backend(self, mask: int) -> None:
        if mask & WRITE and self.up is not None:
            self._flush(self.up)
        backend = self._backend
        if backend is None or not mask & ~WRITE or not self._backend_mask & READ:
            return
        try:
            size = backend.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._from_server(self._view[:size])
        else:
            self._server_closed(backend)

    def _server_closed(self, backend: socket.socket) -> None:
        """Its last bytes (a GOAWAY with a reason, usually) still have to reach the client."""
        self._loop.discard(backend)
        self._backend = None
        self._mute = True
        if self.down.pending:
            self._remask()
            self._loop.after(_LAST_WORDS, self.close)
        else:
            self.close()

    def _insert(self, pipe: Pipe, frame: bytes) -> None:
        """A frame of our own, between two frames of the pipe."""
        if not pipe.insert(frame):
            self._held_up(pipe)

    def _held_up(self, pipe: Pipe) -> None:
        """Not all of it could be written."""
        if not pipe.broken:
            self._remask()
        elif pipe is self.down:
            self.close()
        else:
            self._mute = True  # the server has closed; what it said before is still to be read
            self._remask()

    def _flush(self, pipe: Pipe) -> None:
        pipe.flush()
        if pipe.broken:
            self._held_up(pipe)
        elif not pipe.pending:
            if self._mute and self._backend is None:
                self.close()  # these were the server's last words
            else:
                self._remask()
                self._flushed()

    def _remask(self) -> None:
        """Watch for what can go on.

        epoll reports the end of a socket even where nothing is asked for, again and again. So the
        server's socket is unwatched while there is nothing to wait for; the client's end closes
        the connection, whatever else is going on.
        """
        if self.closed:
            return
        up, backend = self.up, self._backend
        full = up is not None and bool(up.pending)
        mask = (0 if full or self._mute else READ) | (WRITE if self.down.pending else 0)
        if mask != self._client_mask:
            self._client_mask = mask
            self._loop.rewatch(self._client, mask)
        mask = (0 if self.down.pending else READ) | (WRITE if full else 0)
        if backend is None or mask == self._backend_mask:
            return
        if not mask:
            self._loop.unwatch(backend)
        elif not self._backend_mask:
            self._loop.watch(backend, mask, self._on_backend, self._failed)
        else:
            self._loop.rewatch(backend, mask)
        self._backend_mask = mask
