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
    abandoned_burst, abandoned_per_second: calls a peer (see `Peer.key`) begins and lets go of, on all its connections:
        RST_STREAM (CVE-2023-44487, rapid reset), or the end of a connection with calls open. One that had to be reset
        because it was half-sent counts as four. grpcio answers everybody with CANCELLED once about a thousand calls
        wait to be looked at, and each takes it a fraction of a millisecond even if it is gone by then. Over the limit
        the connection is closed, and new ones of that peer are until it has made up for it, within a few seconds.
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
    abandoned_burst: int = 500
    abandoned_per_second: float = 250.0
    frames_burst: int = 50_000
    frames_per_second: float = 50_000.0
    preface_timeout: float = 10.0
    settle: float = 0.1


DEFAULTS: Final = Limits()
_KEPT: Final = 512  # buckets, before the full ones are forgotten


class Bucket:
    """A token bucket that looks at the clock only when it is empty: after a pause it gives up to twice its burst."""

    __slots__ = ("_burst", "_clock", "_filled", "_rate", "_tokens")

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """burst: tokens at the start and at most, and the most that can be owed; rate: tokens per second."""
        self._burst = self._tokens = burst
        self._rate = rate
        self._clock = clock
        self._filled = clock()

    def take(self, tokens: float) -> bool:
        """Take them; False where there were too few (they are owed then)."""
        self._tokens -= tokens
        return self._tokens >= 0 or self._refill(tokens)

    @property
    def owes(self) -> bool:
        """More was taken than there was."""
        return self._tokens < 0 and not self._refill(0)

    @property
    def full(self) -> bool:
        """Nothing has been taken, or all of it has come back."""
        self._refill(0)
        return self._tokens == self._burst

    def _refill(self, taken: float) -> bool:
        now = self._clock()
        tokens = self._tokens + (now - self._filled) * self._rate
        self._tokens = max(-self._burst, min(self._burst - taken, tokens))
        self._filled = now
        return self._tokens >= 0


class Budgets:
    """A bucket for each peer, kept beyond its connections: coming back is no way out."""

    def __init__(self, burst: float, rate: float) -> None:
        """The buckets' burst and rate."""
        self._burst = burst
        self._rate = rate
        self._buckets: dict[object, Bucket] = {}

    def of(self, key: object) -> Bucket:
        """The bucket of that peer."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _KEPT:
                self._buckets = {other: kept for other, kept in self._buckets.items() if not kept.full}
            bucket = self._buckets[key] = Bucket(self._burst, self._rate)
        return bucket
