"""What one peer may take from the others. Every limit ends in a reset or a close, never in a queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


class Abuse(Exception):
    """A client went over a limit; its connection ends with GOAWAY(ENHANCE_YOUR_CALM)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one acceptor; times in seconds. The defaults are far above what Kubernetes' clients do.

    connections: open at once, all listeners together. Each takes two descriptors.
    connections_per_uid: of these, by one uid.
    streams: open at once on one connection. The server's own grpc.max_concurrent_streams must be
        lower: clients obey that one, and only those that do not ever meet this one.
    half_sent_after: a call whose client has opened it but not finished sending is left alone for
        this long, whatever the number: a burst of calls looks like this for a few milliseconds.
    half_sent_per_connection, half_sent_total: calls older than that which may still go on. Each
        holds a worker thread of the server, so the total must be lower than its workers.
    half_sent_deadline: the age at which even those are reset.
    half_sent_resets: after so many such resets the connection is closed.
    resets_burst, resets_per_second: RST_STREAM frames by the client (CVE-2023-44487, rapid reset).
    frames_burst, frames_per_second: frames of any kind by the client.
    preface_timeout: between connect() and the 24 bytes every HTTP/2 client sends first.
    settle: at a drain, how long a client that has just connected is given to open its first stream
        before it is told to go.
    """

    connections: int = 256
    connections_per_uid: int = 128
    streams: int = 1024
    half_sent_after: float = 0.5
    half_sent_per_connection: int = 2
    half_sent_total: int = 4
    half_sent_deadline: float = 3.0
    half_sent_resets: int = 256
    resets_burst: int = 1000
    resets_per_second: float = 200.0
    frames_burst: int = 50_000
    frames_per_second: float = 50_000.0
    preface_timeout: float = 10.0
    settle: float = 0.1


DEFAULTS: Final = Limits()


class Bucket:
    """A token bucket that looks at the clock only when it has run empty: after a pause it gives up to twice its burst."""

    __slots__ = ("_burst", "_clock", "_filled", "_rate", "_tokens")

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """burst: tokens at the start and at most; rate: tokens per second."""
        self._burst = self._tokens = burst
        self._rate = rate
        self._clock = clock
        self._filled = clock()

    def take(self, tokens: float) -> bool:
        """Take them; False where there were too few (they are taken all the same)."""
        self._tokens -= tokens
        if self._tokens >= 0:
            return True
        now = self._clock()
        self._tokens = min(self._burst - tokens, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        return self._tokens >= 0
