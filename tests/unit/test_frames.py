"""Following frame headers: any chunking gives the same, and no frame of ours lands inside another."""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from plugins.core.acceptor import frames
from plugins.core.acceptor.frames import FrameTracker, PingFilter
from plugins.core.acceptor.pipe import Pipe

OURS = b"nodeplug"
ANSWER = frames.frame(frames.PING, frames.ACK, 0, OURS)


@dataclass
class Sent:
    """A sequence of frames as a peer may send it, and where something may go between."""

    data: bytes = b""
    safe: set[int] = field(default_factory=set)
    events: list[frames.Event] = field(default_factory=list)

    def add(self, kind: int, flags: int, stream: int, size: int, *, safe: bool = True) -> None:
        self.data += frames.frame(kind, flags, stream, bytes(size))
        if safe:
            self.safe.add(len(self.data))
        if kind in (frames.HEADERS, frames.RST_STREAM, frames.SETTINGS) or (kind == frames.DATA and flags & 1):
            self.events.append((kind, flags, stream))


sizes = st.one_of(st.integers(0, 20), st.integers(0, 70_000))
streams = st.integers(1, frames.LAST_STREAM)


@st.composite
def sequences(draw: st.DrawFn) -> Sent:
    """SETTINGS first, then anything, header blocks in one piece or several."""
    sent = Sent()
    sent.add(frames.SETTINGS, 0, 0, draw(st.integers(0, 5)) * 6)
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from([frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.SETTINGS, 6, 7, 8, 0xAB]))
        stream = draw(streams)
        if kind != frames.HEADERS:
            sent.add(kind, draw(st.sampled_from([0, 1])), stream, draw(sizes))
            continue
        parts = draw(st.lists(sizes, min_size=1, max_size=3))
        for number, size in enumerate(parts):
            last = number == len(parts) - 1
            ended = frames.END_HEADERS if last else 0
            if number:
                sent.add(frames.CONTINUATION, ended, stream, size, safe=last)
            else:
                sent.add(frames.HEADERS, ended | draw(st.sampled_from([0, 1])), stream, size, safe=last)
    return sent


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in chunks, none of them empty."""
    places = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=12))) if len(data) > 1 else []
    return [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]


@given(sequences(), st.data())
def test_chunking_changes_nothing(sent: Sent, data: st.DataObject) -> None:
    tracker, events, begun = FrameTracker(), list[frames.Event](), 0
    for chunk in data.draw(cuts(sent.data)):
        events += tracker.feed(chunk)
        begun += tracker.frames
    whole = FrameTracker()
    assert whole.feed(sent.data) == events == sent.events
    assert whole.frames == begun
    assert tracker.at_boundary and whole.at_boundary


@given(sequences(), st.data())
def test_the_place_for_a_frame_of_ours_is_the_last_one_between_two_frames(sent: Sent, data: st.DataObject) -> None:
    tracker, position = FrameTracker(), 0
    for chunk in data.draw(cuts(sent.data)):
        tracker.feed(chunk)
        end = position + len(chunk)
        places = [place for place in sent.safe if position <= place <= end]
        assert tracker.safe == (max(places) - position if places else -1)
        assert tracker.at_boundary == (end in sent.safe)
        position = end


@given(sequences(), st.data())
def test_a_preface_is_passed_over(sent: Sent, data: st.DataObject) -> None:
    tracker, events = FrameTracker(skip=len(frames.PREFACE)), list[frames.Event]()
    for chunk in data.draw(cuts(frames.PREFACE + sent.data)):
        events += tracker.feed(memoryview(chunk))
    assert events == sent.events


@given(st.integers(1, 70_000), st.data())
def test_a_stream_has_ended_when_its_last_byte_is_there(size: int, data: st.DataObject) -> None:
    tracker = FrameTracker()
    sent = frames.frame(frames.DATA, frames.END_STREAM, 7, bytes(size))
    chunks = data.draw(cuts(sent))
    for chunk in chunks[:-1]:
        assert tracker.feed(chunk) == []
    assert tracker.feed(chunks[-1]) == [(frames.DATA, frames.END_STREAM, 7)]


def test_nothing_of_ours_goes_before_the_first_frame() -> None:
    settings = frames.frame(frames.SETTINGS, 0, 0, bytes(6))
    tracker = FrameTracker()
    for byte in settings[:-1]:
        tracker.feed(bytes([byte]))
        assert tracker.safe == -1
        assert not tracker.at_boundary
    tracker.feed(settings[-1:])
    assert tracker.at_boundary


@given(sequences(), sequences(), st.data())
def test_only_the_answer_to_our_ping_is_taken_out(before: Sent, after: Sent, data: st.DataObject) -> None:
    begun = data.draw(st.integers(0, len(before.data)))  # seen before our PING went out
    tracker = FrameTracker()
    tracker.feed(before.data[:begun])
    filtering = PingFilter(tracker, OURS)
    passed = before.data[:begun]
    for chunk in data.draw(cuts(before.data[begun:] + ANSWER + after.data)):
        passed += filtering.feed(chunk) if not filtering.seen else chunk
    assert filtering.seen
    assert passed == before.data + after.data


@given(sequences(), st.data())
def test_other_pings_pass_at_once_but_for_what_may_still_be_the_answer(sent: Sent, data: st.DataObject) -> None:
    other = frames.frame(frames.PING, frames.ACK, 0, b"\0" * 8) + frames.ping(OURS)
    stream, passed = sent.data + other + sent.data, b""
    filtering = PingFilter(FrameTracker(), OURS)
    for chunk in data.draw(cuts(stream)):
        passed += filtering.feed(chunk)
        assert stream.startswith(passed)
    assert passed == stream
    assert not filtering.seen


@given(sequences(), st.data())
def test_frames_of_ours_go_between_those_of_the_sender(sent: Sent, data: st.DataObject) -> None:
    """Whenever they are inserted, whatever the chunks: the receiver sees both sequences, each in its order."""
    ours = frames.goaway(frames.LAST_STREAM, frames.NO_ERROR) + frames.ping(OURS)
    chunks = data.draw(cuts(sent.data))
    when = data.draw(st.integers(0, len(chunks)))
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        pipe = Pipe(near)
        received = bytearray()
        for number, chunk in enumerate(chunks):
            if number == when:
                pipe.insert(ours)
            pipe.tracker.feed(chunk)
            pipe.forward(pipe.place(chunk))
            received += drained(pipe, far)
        if when == len(chunks):
            pipe.insert(ours)
            received += drained(pipe, far)
    place = received.find(ours)
    assert place in sent.safe
    assert received[:place] + received[place + len(ours) :] == sent.data
    assert place >= len(b"".join(chunks[:when]))  # not before what was sent already


def drained(pipe: Pipe, far: socket.socket) -> bytes:
    """Everything that is in the pipe or behind it."""
    got = b""
    far.setblocking(False)
    while True:
        try:
            got += far.recv(1 << 20)
        except BlockingIOError:
            if not pipe.pending:
                return got
            pipe.flush()
