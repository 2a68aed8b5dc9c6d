"""One direction of a relayed connection: bytes out to one socket, and frames of our own between."""

from __future__ import annotations

import socket

from plugins.core.acceptor.frames import Buffer, FrameTracker


class Pipe:
    """What was read but could not be written yet, and what waits for a place between two frames.

    Bounded: nobody reads for a pipe with bytes `pending`, so these are at most one chunk and the frames inserted, of
    which there is at most one per open stream and a few per connection. `broken`: the sink is gone, nothing is kept.
    """

    __slots__ = ("_send", "broken", "pending", "tracker", "waiting")

    def __init__(self, sink: socket.socket, skip: int = 0) -> None:
        """
        Args:
            sink: non-blocking.
            skip: bytes in front of the first frame.
        """
        self.tracker = FrameTracker(skip)
        self.pending = bytearray()
        self.waiting = b""  # our frames; while there are any, chunks must go through `place`
        self.broken = False
        self._send = sink.send

    @property
    def settled(self) -> bool:
        """Everything taken in has gone out and the last frame is whole."""
        return not self.pending and not self.waiting and self.tracker.at_boundary

    def forward(self, data: Buffer) -> bool:
        """Write at once what the sink takes and keep the rest; True if nothing is left.

        There must be nothing `pending`.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.broken = True
            return False
        if sent == len(data):
            return True
        self.pending += data[sent:]
        return False

    def insert(self, frame: bytes) -> bool:
        """Send whole frames of our own, now or when the frame under way has ended; True if nothing is left."""
        if not self.tracker.at_boundary:
            self.waiting += frame
        elif self.pending:
            self.pending += frame
        else:
            return self.forward(frame)
        return False

    def place(self, data: Buffer) -> Buffer:
        """The chunk the tracker has just been fed, with what waits put in where it may be."""
        at = self.tracker.safe
        if at < 0 or not self.waiting:
            return data
        frames, self.waiting = self.waiting, b""
        return bytes(data[:at]) + frames + bytes(data[at:])

    def flush(self) -> None:
        """Write what is pending, as far as the sink takes it."""
        try:
            sent = self._send(self.pending)
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            sent = len(self.pending)
        del self.pending[:sent]
