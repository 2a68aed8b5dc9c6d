"""One client's connection: what the frame headers on it tell, and what follows from that."""

from __future__ import annotations

import socket
from typing import Final, Protocol

from plugins.core.acceptor import frames
from plugins.core.acceptor.farewell import Farewell
from plugins.core.acceptor.frames import Buffer, PingFilter
from plugins.core.acceptor.limits import Abuse, Bucket, Limits
from plugins.core.acceptor.loop import Loop
from plugins.core.acceptor.peers import Peer, backend_name
from plugins.core.acceptor.pipe import Pipe
from plugins.core.acceptor.relay import Relay
from plugins.core.acceptor.streams import Streams

_HALF_SENT_COUNTS: Final = 4  # abandoned calls: for a while it held a worker


class Host(Protocol):
    """What a connection needs of the acceptor it belongs to."""

    @property
    def loop(self) -> Loop:
        """The thread everything runs on."""

    @property
    def limits(self) -> Limits:
        """What a client may take."""

    def budget(self, peer: Peer) -> Bucket:
        """What the peer may abandon."""

    def half_sent(self, connection: Connection) -> None:
        """A stream is open whose client has not finished sending."""

    def greeted(self, connection: Connection) -> None:
        """The preface is whole."""

    def ended(self, connection: Connection) -> None:
        """The connection is closed."""

    def note(self, counter: str, message: str, **fields: object) -> None:
        """Count and log."""


class Connection(Relay):
    """Ends with either side's end, for abuse, or at the end of its farewell."""

    __slots__ = ("_abandoned", "_farewell", "_filter", "_frames", "_greeting", "_host", "_path", "peer", "streams")

    def __init__(self, host: Host, client: socket.socket, peer: Peer, path: str) -> None:
        """client: accepted, non-blocking, owned from here on; path: the server's Unix socket.

        The server is connected to when the client has sent the preface: one that says nothing, or
        something else, costs the server nothing.
        """
        super().__init__(host.loop, client)
        limits = host.limits
        self._host = host
        self._path = path
        self._greeting = b""
        self._filter: PingFilter | None = None
        self._farewell: Farewell | None = None
        self._frames = Bucket(limits.frames_burst, limits.frames_per_second)
        self._abandoned = host.budget(peer)
        self.peer = peer
        self.streams = Streams(limits, self._abandoned)

    # -- bytes ----------------------------------------------------------------------------------

    def _from_client(self, data: memoryview) -> None:
        up = self.up
        if up is None:
            self._greet(bytes(data))
        elif self._filter is None and not up.waiting:
            self._follow(up, data)  # first: what goes over a limit does not reach the server
            if not up.forward(data):
                self._held_up(up)
        else:
            self._from_client_changed(up, bytes(data))

    def _from_client_changed(self, up: Pipe, data: Buffer) -> None:
        """For chunks in which something of ours has to be taken out or put in."""
        if self._filter is not None:
            data = self._filter.feed(data)
            if self._filter.seen:
                self._filter = None
        self._follow(up, data)
        if not up.forward(up.place(data)):
            self._held_up(up)

    def _follow(self, up: Pipe, data: Buffer) -> None:
        tracker = up.tracker
        events = tracker.feed(data)
        if events:
            streams = self.streams
            streams.from_client(events)
            if streams.half:
                self._host.half_sent(self)
        if not self._frames.take(tracker.frames):
            raise Abuse("too many frames")
        if self._farewell is not None:
            self._farewell.step()

    def _greet(self, data: bytes) -> None:
        self._greeting += data
        head = self._greeting[: len(frames.PREFACE)]
        if not frames.PREFACE.startswith(head):
            self._host.note("garbage", "connection without an HTTP/2 preface", uid=self.peer.uid)
            self.close()
        elif len(head) == len(frames.PREFACE):
            data, self._greeting = self._greeting, b""
            self._host.greeted(self)
            try:
                up = self.connect(self._path, backend_name(self.peer))
            except OSError as error:
                self._host.note("refused_backend", "server unreachable", error=str(error))
                self.close()
                return
            self._follow(up, data)
            if not up.forward(data):
                self._held_up(up)

    def _from_server(self, data: memoryview) -> None:
        down = self.down
        if down.waiting:
            events = down.tracker.feed(data)
            clear = down.forward(down.place(data))
        else:
            clear = down.forward(data)
            events = down.tracker.feed(data)
        if not clear:
            self._held_up(down)
        if events:
            self.streams.from_server(events)
        if self._farewell is not None:
            self._farewell.step()

    def _flushed(self) -> None:
        if self._farewell is not None:
            self._farewell.step()

    # -- the farewell's needs -------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the client to go elsewhere, and close when its streams have ended."""
        if self._farewell is None:
            self._farewell = Farewell(self, self._loop, self._host.limits)
        self._farewell.step()

    def say(self, what: bytes) -> None:
        """Whole frames of our own for the client, between two of the server's."""
        self._insert(self.down, what)

    def expect(self, ping: bytes) -> None:
        """Keep the answer to our PING with this payload from the server."""
        if self.up is not None:
            self._filter = PingFilter(self.up.tracker, ping)

    @property
    def answered(self) -> bool:
        """No answer to a PING of ours is outstanding."""
        return self._filter is None

    @property
    def quiet(self) -> bool:
        """All that the server has said has reached the client, up to the end of a frame."""
        return self.down.settled

    def finish(self) -> bool:
        """Close now; returns whether that cannot have cost the client a call."""
        clean = self._farewell is not None and self._farewell.done
        self.say(frames.goaway(self.streams.highest, frames.NO_ERROR))
        self.close()
        return clean

    # -- the ends -------------------------------------------------------------------------------

    def reset(self, stream: int) -> None:
        """Reset a half-sent stream on both sides; this frees the server's worker."""
        up = self.up
        if up is None or self.closed:
            return
        within = self._abandoned.take(_HALF_SENT_COUNTS)
        if not up.tracker.at_boundary and not up.pending:
            # The client stopped inside a frame: nothing of ours can reach the server behind it.
            self._calm("unfinished frame")
        elif not within:
            self._calm("too many unfinished calls")
        else:
            self.streams.end(stream)
            self._insert(up, frames.rst_stream(stream, frames.CANCEL))
            self.say(frames.rst_stream(stream, frames.ENHANCE_YOUR_CALM))

    def _calm(self, reason: str) -> None:
        self._host.note("calmed", "connection closed for abuse", reason=reason, uid=self.peer.uid)
        self.say(frames.goaway(self.streams.highest, frames.ENHANCE_YOUR_CALM))
        self.close()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Abuse):
            self._calm(str(error))
        else:
            self._host.note("failures", "connection closed by an error", error=repr(error))
            self.close()

    def _ended(self) -> None:
        self._abandoned.take(len(self.streams.open))
        self._host.ended(self)
