"""A listening Unix socket that dies like a process: at once, without a goodbye, and its file stays.

grpcio's own listener unlinks the path and says goodbye (GOAWAY) when it stops. A kubelet that is replaced does
neither: the kernel closes its descriptors and the file lies there until the next kubelet removes it. So the lab binds
the socket itself, as a Go program does (the file appears by bind: IN_CREATE), and passes bytes on to an abstract
socket that grpcio serves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from plugins.lab.errors import LabError

SUN_PATH = 107  # bytes; unix(7)


class Door:
    """Relays connections from a path to an inner abstract socket."""

    def __init__(self, path: Path) -> None:
        if len(os.fsencode(path)) > SUN_PATH:
            raise LabError(f"the socket path {path} is longer than {SUN_PATH} bytes: choose a shorter folder")
        self.path = path
        self.inner = f"nodeplug-lab-{secrets.token_hex(8)}"
        self._pairs: set[_Pair] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @property
    def target(self) -> str:
        """The address for grpcio's add_insecure_port."""
        return f"unix-abstract:{self.inner}"

    def open(self) -> None:
        """Bind, listen and begin to relay. An existing file is an error, as for every listener."""
        try:
            self._listener.bind(str(self.path))
        except OSError as error:
            self._listener.close()
            raise LabError(f"cannot listen on {self.path}: {error.strerror}") from error
        self._listener.listen(128)
        threading.Thread(target=self._accept, name=f"door {self.path.name}", daemon=True).start()

    def slam(self) -> None:
        """End everything at this moment, as the kernel does for a dead process. The file stays.

        A shutdown is what the other side sees; the descriptors are closed by the threads that read them, so that
        no number is used again while a thread still sits in a call on it.
        """
        with self._guard:
            self._closed = True
            pairs = list(self._pairs)
        _shut(self._listener)
        for pair in pairs:
            pair.shut()

    def _accept(self) -> None:
        with self._listener:
            while not self._closed:
                try:
                    outer, _ = self._listener.accept()
                except OSError:  # shut down
                    return
                self._relay(outer)

    def _relay(self, outer: socket.socket) -> None:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        pair = _Pair(outer, inner, self._pairs.discard)
        try:
            inner.connect("\0" + self.inner)
        except OSError:
            pair.close()
            return
        with self._guard:
            self._pairs.add(pair)
            closed = self._closed
        pair.start()
        if closed:
            pair.shut()


class _Pair:
    """Two joined connections and the two threads that carry bytes between them."""

    def __init__(self, outer: socket.socket, inner: socket.socket, ended: Callable[[_Pair], None]) -> None:
        self._ends = (outer, inner)
        self._ended = ended
        self._running = 2
        self._guard = threading.Lock()

    def start(self) -> None:
        outer, inner = self._ends
        for source, sink in ((outer, inner), (inner, outer)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def shut(self) -> None:
        for end in self._ends:
            _shut(end)

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self.shut()  # one direction has ended, so has the HTTP/2 connection: the other pump sees it and ends too
        with self._guard:
            self._running -= 1
            last = self._running == 0
        if last:
            self._ended(self)
            self.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
