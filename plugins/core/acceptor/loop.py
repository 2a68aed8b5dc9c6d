"""One thread, one epoll: sockets that are ready, timers that are due, calls from other threads."""

from __future__ import annotations

import functools
import heapq
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

T = TypeVar("T")
READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
GONE: Final = select.EPOLLHUP | select.EPOLLERR
CHUNK: Final = 65536  # bytes read at once
BATCH: Final = 64  # events per wake-up; select.epoll allocates room for as many each time

Handler = Callable[[int], None]
Failed = Callable[[BaseException], None]


class Loop:
    """Level-triggered, and asleep without a timeout unless a timer is set: idle costs nothing.

    All handlers run on the loop's thread. An exception of one goes to the `failed` it was watched
    with and ends nothing else.
    """

    def __init__(self, name: str, broken: Failed) -> None:
        """broken: called with what a timer, a posted call or `failed` itself raised."""
        self.buffer = bytearray(CHUNK)  # shared by all connections: a chunk never outlives its event
        self.view = memoryview(self.buffer)
        self._broken = broken
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[Handler, Failed]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._discarded: list[socket.socket] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running = False
        self._gate = threading.Lock()  # no call is appended once the thread is to end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._watch(self._wake, READ, self._woken, broken)

    def start(self) -> None:
        """Start the thread. Once."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what was posted before; then calls run on the caller's thread."""
        if self._running:
            self.call(self._halt)
            if threading.current_thread() is not self._thread:
                self._thread.join()
        self._bury()

    def release(self) -> None:
        """Close the loop's own descriptors. After `stop`."""
        self._epoll.close()
        os.close(self._wake)

    def call(self, work: Callable[[], T]) -> T:
        """Run it on the loop's thread and wait for what it returns or raises."""
        if threading.current_thread() is self._thread:
            return work()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller who waits
                done.set_exception(error)

        with self._gate:
            if running := self._running:
                self._calls.append(run)
                os.eventfd_write(self._wake, 1)
        return done.result() if running else work()

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Run it once, so many seconds from now. There is no cancelling: `work` looks whether it is
        still wanted."""
        self._timer_count += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timer_count, work))

    def watch(self, sock: socket.socket, mask: int, handler: Handler, failed: Failed) -> None:
        """Call handler(events) whenever one of the events of mask is there."""
        self._watch(sock.fileno(), mask, handler, failed)

    def rewatch(self, sock: socket.socket, mask: int) -> None:
        """Another mask for a watched socket. GONE is always part of it."""
        self._epoll.modify(sock.fileno(), mask)

    def unwatch(self, sock: socket.socket) -> None:
        """Watch it no longer; nothing happens if it was not watched."""
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def discard(self, sock: socket.socket) -> None:
        """Close it when the events at hand are done.

        Not at once: a new socket would get the same number, and an event still in this batch for
        the old one would go to the new one.
        """
        self.unwatch(sock)
        self._discarded.append(sock)

    def _watch(self, fd: int, mask: int, handler: Handler, failed: Failed) -> None:
        self._epoll.register(fd, mask)
        self._handlers[fd] = (handler, failed)

    def _run(self) -> None:
        poll = self._epoll.poll
        handlers = self._handlers
        while self._running:
            events = poll(self._pause() if self._timers else -1, BATCH)
            for fd, mask in events:
                found = handlers.get(fd)
                if found is None:
                    continue
                try:
                    found[0](mask)
                except Exception as error:  # noqa: BLE001 - one connection's trouble stays its own
                    self._guarded(functools.partial(found[1], error))
            if self._discarded:
                self._bury()

    def _pause(self) -> float:
        """Run the timers that are due; returns the seconds until the next one, or -1."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._guarded(heapq.heappop(self._timers)[2])
        if self._discarded:
            self._bury()
        return self._timers[0][0] - now if self._timers else -1

    def _woken(self, _mask: int) -> None:
        os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft()()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the thread must outlive it
            self._broken(error)

    def _bury(self) -> None:
        while self._discarded:
            self._discarded.pop().close()

    def _halt(self) -> None:
        with self._gate:
            self._running = False
