"""How one client is sent elsewhere without losing a call (RFC 9113, section 6.8)."""

from __future__ import annotations

from typing import Final, Protocol

from plugins.core.acceptor.frames import LAST_STREAM, NO_ERROR, goaway, ping
from plugins.core.acceptor.limits import Limits
from plugins.core.acceptor.loop import Loop
from plugins.core.acceptor.streams import Streams

PING: Final = b"nodeplug"  # the eight bytes our PING is known by; grpc's own are numbers


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
    """GOAWAY(2^31-1) and PING; the client's answer; no stream open; the client closes.

    The first GOAWAY refuses nothing: streams the client opened before it read it still arrive and
    are served. Its answer to the PING says that it has read it. Even then we do not close at once:
    a client may write the answer ahead of the HEADERS of a call it began before. gRPC clients close
    a connection they were told to leave when its last stream has ended; only one that does not
    within `linger` is closed from here.

    A client that has only just connected is left to open its first stream, or `settle` seconds,
    before it is told: a GOAWAY on the heels of the first SETTINGS may count as a failed connect,
    and then the calls that wait for it fail.
    """

    __slots__ = ("_connection", "_limits", "_lingering", "_loop", "_said", "_settled", "_settling")

    def __init__(self, connection: Leaving, loop: Loop, limits: Limits) -> None:
        self._connection = connection
        self._loop = loop
        self._limits = limits
        self._settling = False
        self._settled = False
        self._said = False
        self._lingering = False

    @property
    def done(self) -> bool:
        """The client knows, nothing is open: closing now costs no call."""
        connection = self._connection
        return self._said and connection.answered and not connection.streams.open and connection.quiet

    def step(self) -> None:
        """Go on as far as possible; called after anything that may have changed the answer."""
        if not self._said:
            self._begin()
        elif not self._lingering and self.done:
            self._lingering = True
            self._loop.after(self._limits.linger, self._linger_over)

    def _begin(self) -> None:
        streams = self._connection.streams
        if not streams.acked:
            return  # not connected yet: the client would take a GOAWAY for a failed connect
        if streams.highest or self._settled:
            self._said = True
            self._connection.expect(PING)
            self._connection.say(goaway(LAST_STREAM, NO_ERROR) + ping(PING))
        elif not self._settling:
            self._settling = True
            self._loop.after(self._limits.settle, self._settle_over)

    def _settle_over(self) -> None:
        self._settled = True
        if not self._connection.closed:
            self.step()

    def _linger_over(self) -> None:
        self._lingering = False
        if self._connection.closed:
            return
        if self.done:
            self._connection.finish()
