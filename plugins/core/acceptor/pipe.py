"""One direction of a relayed connection: bytes out to one socket, and frames of our own between."""

from __future__ import annotations

import socket

from plugins.core.acceptor.frames import Buffer, FrameTracker


class Pipe:
    """What was read but could not be written yet, and what waits for a place between two frames.

    Bounded: nobody reads for a pipe with bytes `pending`, so these are at most one chunk and the
    frames inserted, of which there is at most one per open stream and a few per connection.
    """

    __slots__ = ("_send", "_waiting", "pending", "tracker")

    def __init__(self, sink: socket.socket, skip: int = 0) -> None:
        """sink: non-blocking; skip: bytes in front of the first frame."""
        self.tracker = FrameTracker(skip)
        self.pending = bytearray()
        self._waiting = b""
        self._send = sink.send

    @property
    def settled(self) -> bool:
        """Everything taken in has gone out and the last frame is whole."""
        return not self.pending and not self._waiting and self.tracker.at_boundary

    def forward(self, data: Buffer) -> None:
        """Write at once what the sink takes and keep the rest; there must be nothing `pending`.

        Called before the tracker sees the data: the other side wakes while we look at the headers.

        Raises:
            OSError: the sink is gone.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.pending += data[sent:]

    def insert(self, frame: bytes) -> None:
        """Send a whole frame of our own, now or as soon as the frame under way has ended."""
        if not self.tracker.at_boundary:
            self._waiting += frame
        elif self.pending:
            self.pending += frame
        else:
            self.forward(frame)

    @property
    def waiting(self) -> bool:
        """Whether an inserted frame waits: then chunks must go through `place`."""
        return bool(self._waiting)

    def place(self, data: Buffer) -> Buffer:
        """The chunk the tracker has just been fed, with what waits put in where it may be."""
        at = self.tracker.safe
        if at < 0 or not self._waiting:
            return data
        frames, self._waiting = self._waiting, b""
        return bytes(data[:at]) + frames + bytes(data[at:])

    def flush(self) -> None:
        """Write what is pending, as far as the sink takes it.

        Raises:
            OSError: the sink is gone.
        """
        try:
            sent = self._send(self.pending)
        except BlockingIOError:
            return
        del self.pending[:sent]
