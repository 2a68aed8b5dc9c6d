"""HTTP/2 frame headers, followed through a byte stream in any chunking (RFC 9113, section 4.1).

Only the nine bytes in front of each frame are looked at: header blocks stay opaque, so there is no
HPACK state to keep and nothing of a call's content is looked at. That is enough to know which
streams are open and where, between two frames, a frame of our own may be put.
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
HEADER_SIZE: Final = 9
LAST_STREAM: Final = 2**31 - 1

DATA: Final = 0x0
HEADERS: Final = 0x1
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4

NO_ERROR: Final = 0x0
CANCEL: Final = 0x8
ENHANCE_YOUR_CALM: Final = 0xB

Buffer = bytes | bytearray | memoryview
Event = tuple[int, int, int]  # kind, flags, stream

_TOLD = (RST_STREAM, SETTINGS)
_BLOCKS = (CONTINUATION, PUSH_PROMISE)
_HEAD = struct.Struct(">HBBBL")  # length (16 + 8 bits), kind, flags, stream
_unpack = _HEAD.unpack_from


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def goaway(last_stream: int, error: int) -> bytes:
    """GOAWAY (RFC 9113, section 6.8); 2**31-1 announces the end and refuses nothing yet."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream, error))


def ping(payload: bytes) -> bytes:
    """PING (section 6.7); payload is eight bytes that come back in the acknowledgement."""
    return frame(PING, 0, 0, payload)


def rst_stream(stream: int, error: int) -> bytes:
    """RST_STREAM (section 6.4)."""
    return frame(RST_STREAM, 0, stream, struct.pack(">L", error))


class FrameTracker:
    """Where in the sequence of frames one direction of a connection stands.

    `safe` is, for the chunk fed last, the last offset at which a whole frame of our own may be
    inserted, or -1. It never lies inside a frame, never between HEADERS and its CONTINUATIONs
    (section 6.10) and never before the sender's first frame, its SETTINGS (section 3.4), has
    ended. `at_boundary`: the end of that chunk is such a place. `frames`: how many began in
    that chunk: a flood of tiny ones is measured by it.
    """

    __slots__ = ("_ending", "_hold", "at_boundary", "frames", "left", "partial", "safe")

    def __init__(self, skip: int = 0) -> None:
        """skip: bytes in front of the first frame (the client's preface)."""
        self.left = skip  # bytes until the next frame header begins
        self.partial = b""  # the bytes seen of a frame header that is not whole yet
        self.safe = -1
        self.at_boundary = False
        self.frames = 0
        self._ending: Event | None = None  # DATA that ends a stream and is not whole yet
        self._hold = True  # the next frame belongs to the one before it: nothing may go between

    def feed(self, data: Buffer) -> list[Event]:
        """Follow one chunk; returns the frames in it that open, end or reset a stream, and SETTINGS.

        DATA that ends a stream is returned when the last byte of it is there: until then the server waits for it, and
        a worker with it. The others are returned when their header is whole.
        """
        events: list[Event] = []
        size = len(data)
        pos = self.left
        safe = -1
        hold = self._hold
        partial = self.partial
        count = 0
        if partial:
            if len(partial) + size < HEADER_SIZE:
                self.partial = partial + bytes(data)
                self.safe = -1
                self.frames = 0
                return events
            pos = -len(partial)  # the header began that many bytes before this chunk
            self.partial = b""
        elif self._ending is not None and pos <= size:
            events.append(self._ending)
            self._ending = None
        while pos < size:
            if pos + HEADER_SIZE > size:
                if not hold:
                    safe = pos
                self.partial = bytes(data[pos:])
                pos = size
                break
            if pos >= 0:
                if not hold:
                    safe = pos
                high, low, kind, flags, stream = _unpack(data, pos)
            else:
                high, low, kind, flags, stream = _unpack(partial + bytes(data[: pos + HEADER_SIZE]))
            pos += HEADER_SIZE + (high << 8 | low)
            count += 1
            hold = False
            if kind == HEADERS:
                hold = not flags & END_HEADERS
                events.append((kind, flags, stream & LAST_STREAM))
            elif kind == DATA:
                if flags & END_STREAM:
                    if pos <= size:
                        events.append((kind, flags, stream & LAST_STREAM))
                    else:
                        self._ending = (kind, flags, stream & LAST_STREAM)
            elif kind in _TOLD:
                events.append((kind, flags, stream & LAST_STREAM))
            elif kind in _BLOCKS:
                hold = not flags & END_HEADERS
        self.left = pos - size
        self.at_boundary = pos == size and not hold and not self.partial
        self.safe = size if self.at_boundary else safe
        self._hold = hold
        self.frames = count
        return events


class PingFilter:
    """Takes the acknowledgement of our own PING out of the client's bytes; everything else passes unchanged.

    The backend never sent that PING, so it must not see the answer. At most 16 bytes are held back,
    and only while they may still turn out to be the answer. `seen` turns true once; the filter is
    of no use afterwards.
    """

    __slots__ = ("_held", "_left", "_passed", "_payload", "seen")

    def __init__(self, tracker: FrameTracker, payload: bytes) -> None:
        """tracker: the client's direction as it stands now, before our PING goes out."""
        self.seen = False
        self._payload = payload
        self._left = tracker.left
        self._held = tracker.partial
        # These bytes went on already: the frame they begin is older than our PING.
        self._passed = len(tracker.partial)

    def feed(self, data: Buffer) -> bytes:
        """The bytes of this chunk (and those held back before) that go on to the backend."""
        if self._left >= len(data):
            self._left -= len(data)
            return bytes(data)
        buf = self._held + bytes(data)
        size = len(buf)
        start = 0  # first byte not passed on yet
        pos = self._left
        out = b""
        while not self.seen and size - pos >= HEADER_SIZE:
            high, low, kind, flags, _ = _unpack(buf, pos)
            end = pos + HEADER_SIZE + (high << 8 | low)
            if kind == PING and flags & ACK and end - pos == HEADER_SIZE + 8:
                if end > size:
                    break
                if buf[pos + HEADER_SIZE : end] == self._payload:
                    self.seen = True
                    out = buf[:pos]
                    start = end
            pos = end
        if self.seen:
            pos = size
        self._left = max(0, pos - size)
        self._held = buf[pos:]
        out += buf[start:pos]
        passed, self._passed = self._passed, 0 if out else self._passed
        return out[passed:]
