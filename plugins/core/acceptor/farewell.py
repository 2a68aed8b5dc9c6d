"""How one client is sent elsewhere without losing a call (RFC 9113, section 6.8)."""

from __future__ import annotations

from typing import Final, Protocol

from plugins.core.acceptor.frames import LAST_STREAM, NO_ERROR, goaway, ping
from plugins.core.acceptor.limits import Limits
from plugins.core.acceptor.loop import Loop
from plugins.core.acceptor.streams import Streams

PING: Final = b"nodeplug"  # the eight bytes our PING is known by; grpc's own are random numbers


class Leaving(Protocol):
    """What a farewell needs of its connection."""

    streams: Streams
    closed: bool

    def say(self, frames: bytes) -> None:
        """Send it to the client between two frames of the server's."""

    def expect(self, ping: bytes) -> None:
        """Keep the answer to our PING from the server."""

    @property
    def answered(self) -> bool:
        """The answer has come."""

    @property
    def quiet(self) -> bool:
        """All that the server has said has reached the client, up to the end of a frame."""

    def finish(self) -> bool:
        """Close."""


class Farewell:
    """GOAWAY(2^31-1) with a PING; its answer; no stream open; a second PING; its answer; the end.

    The first GOAWAY refuses nothing: streams the client opened before it read it still arrive and
    are served. The answer to the first PING says that it has read it. A client may write that
    answer ahead of the HEADERS of calls it had begun before (grpc-core does), but not the answer to
    a PING sent after the first answer: if no stream has come by then, none comes any more.
    Waiting for the client to close instead is no choice: now and then grpc-core keeps a connection
    it was told to leave until the calls that moved on are through, and these wait for the process
    that takes over from us.

    A client that has only just connected is left to open its first stream, or `settle` seconds,
    before it is told: a GOAWAY on the heels of the first SETTINGS may count as a failed connect,
    and then the calls that wait for it fail.
    """

    __slots__ = ("_asked", "_connection", "_loop", "_rounds", "_settle", "_settled", "_settling")

    def __init__(self, connection: Leaving, loop: Loop, limits: Limits) -> None:
        self._connection = connection
        self._loop = loop
        self._settle = limits.settle
        self._settling = False
        self._settled = False
        self._rounds = 0  # PINGs sent
        self._asked = 0  # the client's highest stream when the last one was sent

    @property
    def done(self) -> bool:
        """The client knows, and no stream is open: closing now costs no call of a client that keeps to the rules."""
        connection = self._connection
        return self._rounds > 0 and connection.answered and not connection.streams.open and connection.quiet

    def step(self) -> None:
        """Go on as far as possible; called after anything that may have changed the answer."""
        if self._connection.closed:
            return
        if not self._rounds:
            self._begin()
        elif self.done:
            if self._rounds > 1 and self._asked == self._connection.streams.highest:
                self._connection.finish()
            else:
                self._ask(b"")

    def _begin(self) -> None:
        streams = self._connection.streams
        if not streams.acked:
            return  # not connected yet: the client would take a GOAWAY for a failed connect
        if streams.highest or self._settled:
            self._ask(goaway(LAST_STREAM, NO_ERROR))
        elif not self._settling:
            self._settling = True
            self._loop.after(self._settle, self._settle_over)

    def _ask(self, before: bytes) -> None:
        self._rounds += 1
        self._asked = self._connection.streams.highest
        self._connection.expect(PING)
        self._connection.say(before + ping(PING))

    def _settle_over(self) -> None:
        self._settled = True
        self.step()
