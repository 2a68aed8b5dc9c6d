"""Which streams of one connection are open, and which of them the client has not finished sending."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, TypeVar

from plugins.core.acceptor.frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Event,
)
from plugins.core.acceptor.limits import Abuse, Bucket, Limits

NEVER: Final = float("inf")
K = TypeVar("K")


class Streams:
    """The life of streams as both directions tell it (RFC 9113, section 5.1).

    A stream ends for us when the server has ended it or either side reset it: in gRPC the status
    comes with the server's END_STREAM, and nothing the client sends after it matters.
    """

    __slots__ = ("_abandoned", "_streams_max", "acked", "half", "highest", "open")

    def __init__(self, limits: Limits, abandoned: Bucket) -> None:
        """abandoned: the peer's budget."""
        self.open: set[int] = set()
        self.half: dict[int, float] = {}  # half-sent: stream -> when it was opened; oldest first
        self.highest = 0  # the last stream the client opened; 0: none yet
        self.acked = False  # the client has acknowledged the server's SETTINGS: it is connected
        self._streams_max = limits.streams
        self._abandoned = abandoned

    def from_client(self, events: list[Event]) -> None:
        """Take in what the client's direction brought.

        A gRPC client ends its side with DATA, never with trailers; HEADERS on an open stream change nothing here.

        Raises:
            Abuse: too many streams open at once, or too many calls abandoned.
        """
        for kind, flags, stream in events:
            if kind == HEADERS:
                if stream > self.highest:
                    self.highest = stream
                    self.open.add(stream)
                    if not flags & END_STREAM:
                        self.half[stream] = time.monotonic()
                    if len(self.open) > self._streams_max:
                        raise Abuse("too many streams open")
            elif kind == DATA:
                self.half.pop(stream, None)
            elif kind == RST_STREAM:
                self.end(stream)
                if not self._abandoned.take(1):
                    raise Abuse("too many calls abandoned")
            elif kind == SETTINGS and flags & ACK:
                self.acked = True

    def from_server(self, events: list[Event]) -> None:
        """Take in what the server's direction brought."""
        for kind, flags, stream in events:
            if kind == RST_STREAM or (flags & END_STREAM and kind != SETTINGS):
                self.end(stream)

    def end(self, stream: int) -> None:
        """The stream is over; nothing happens if it was before."""
        self.open.discard(stream)
        self.half.pop(stream, None)


def judge(half_sent: Mapping[K, Mapping[int, float]], now: float, limits: Limits) -> tuple[list[tuple[K, int]], float]:
    """Decide which half-sent streams are reset now, as (owner, stream).

    Also returns the seconds until it should look again, `NEVER` where no such stream is left.

    A stream younger than `half_sent_after` is never touched: a burst of calls on one channel, their
    HEADERS ahead of their DATA, is over within milliseconds. Of those older, a few per connection
    and in total may go on until `half_sent_deadline` (a client that was stopped for a moment);
    where there are more, the connection with the most of them loses its oldest first.
    """
    resets: list[tuple[K, int]] = []
    stale: dict[K, list[int]] = {}
    due = NEVER
    for owner, streams in half_sent.items():
        for stream, since in streams.items():
            if now - since >= limits.half_sent_deadline:
                resets.append((owner, stream))
            elif now - since >= limits.half_sent_after:
                stale.setdefault(owner, []).append(stream)
            else:
                due = min(due, since + limits.half_sent_after)
                break  # oldest first: the rest is younger still
    total = sum(map(len, stale.values()))
    while stale:
        owner = max(stale, key=lambda each: len(stale[each]))
        over = len(stale[owner]) > limits.half_sent_per_connection
        if not over and total <= limits.half_sent_total:
            break
        resets.append((owner, stale[owner].pop(0)))
        total -= 1
    for owner, kept in stale.items():
        if kept:
            due = min(due, half_sent[owner][kept[0]] + limits.half_sent_deadline)
    return resets, due - now
