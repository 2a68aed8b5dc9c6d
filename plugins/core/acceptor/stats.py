"""Counters of one acceptor."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

LOG: Final = logging.getLogger("nodeplug.acceptor")


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot. The first four are levels, the others only grow.

    buffered: bytes held because their reader is slow. refused_peers: by the policy. refused_limit: over a limit of
    connections. refused_backend: the server behind was not there. half_sent_resets: calls reset because they were
    never finished. calmed: connections closed for abuse. garbage: connections that did not begin as HTTP/2. cut:
    connections closed at the deadline of a drain with something still open. failures: connections closed because of
    an error in here.
    """

    connections: int
    streams: int
    half_sent: int
    buffered: int
    accepted: int
    refused_peers: int
    refused_limit: int
    refused_backend: int
    half_sent_resets: int
    calmed: int
    garbage: int
    cut: int
    failures: int


class Counters:
    """The growing part of `Stats`; only the loop's thread writes."""

    __slots__ = (
        "accepted",
        "calmed",
        "cut",
        "failures",
        "garbage",
        "half_sent_resets",
        "refused_backend",
        "refused_limit",
        "refused_peers",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.refused_peers = 0
        self.refused_limit = 0
        self.refused_backend = 0
        self.half_sent_resets = 0
        self.calmed = 0
        self.garbage = 0
        self.cut = 0
        self.failures = 0


class QuietLog:
    """One line per message and interval, with the number of those left out: a log is no target."""

    def __init__(self, name: str, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """name: of the acceptor, part of every line; interval: seconds."""
        self._name = name
        self._interval = interval
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warn(self, message: str, **fields: Any) -> None:
        """Log at WARNING, or count. `message` is a constant: it is the key."""
        now = self._clock()
        last = self._last.get(message)
        if last is not None and now - last < self._interval:
            self._left_out[message] = self._left_out.get(message, 0) + 1
            return
        self._last[message] = now
        left_out = self._left_out.pop(message, 0)
        known: dict[str, Any] = {"acceptor": self._name, **fields}
        if left_out:
            known["left_out"] = left_out
        LOG.warning(message, extra={"fields": known})
