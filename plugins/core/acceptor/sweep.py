"""Looks after clients that have begun something and do not go on; asleep while there are none."""

from __future__ import annotations

import time
from typing import Final

from plugins.core.acceptor.connection import Connection
from plugins.core.acceptor.limits import Limits
from plugins.core.acceptor.loop import Loop
from plugins.core.acceptor.stats import Counters, QuietLog
from plugins.core.acceptor.streams import NEVER, judge

_PAUSE: Final = 0.1  # seconds between two looks, at least


class Sweep:
    """Two kinds: connections without a preface, and half-sent calls (see `judge`)."""

    def __init__(self, loop: Loop, limits: Limits, counters: Counters, log: QuietLog) -> None:
        self._loop = loop
        self._limits = limits
        self._counters = counters
        self._log = log
        self._silent: dict[Connection, float] = {}  # since when; oldest first
        self._half: dict[Connection, None] = {}
        self._next = NEVER

    def connected(self, connection: Connection) -> None:
        """It has not sent a preface yet."""
        self._silent[connection] = time.monotonic()
        self._within(self._limits.preface_timeout)

    def greeted(self, connection: Connection) -> None:
        """Now it has."""
        self._silent.pop(connection, None)

    def half_sent(self, connection: Connection) -> None:
        """It has half-sent calls."""
        if connection not in self._half:
            self._half[connection] = None
            self._within(self._limits.half_sent_after)

    def ended(self, connection: Connection) -> None:
        """It is closed."""
        self._silent.pop(connection, None)
        self._half.pop(connection, None)

    def _within(self, seconds: float) -> None:
        due = time.monotonic() + seconds
        if due < self._next:
            self._next = due
            self._loop.after(seconds, self._run)

    def _run(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return  # set for later meanwhile by a run before this one
        self._next = NEVER
        due = min(self._drop_silent(now), self._reset_half_sent(now))
        if due != NEVER:
            self._within(max(due, _PAUSE))

    def _drop_silent(self, now: float) -> float:
        for connection, since in list(self._silent.items()):
            left = since + self._limits.preface_timeout - now
            if left > 0:
                return left
            connection.close()
        return NEVER

    def _reset_half_sent(self, now: float) -> float:
        for connection in [each for each in self._half if not each.streams.half]:
            del self._half[connection]
        resets, due = judge({each: each.streams.half for each in self._half}, now, self._limits)
        for connection, stream in resets:
            connection.reset(stream)
        if resets:
            self._counters.half_sent_resets += len(resets)
            self._log.warn("unfinished calls reset", calls=len(resets))
        return due
