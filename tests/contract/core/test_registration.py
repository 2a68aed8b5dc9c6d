"""Register style against a kubelet.sock of our own: at start, after refusals, after a restart, when let go."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core.plugin import Listener
from plugins.core.registration.kubelet import KubeletRegistration
from plugins.core.registration.presence import Presence

RESOURCE = "test.internal/thing"


class Kubelet(rpc.RegistrationServicer):
    """Takes or refuses registrations, and notes when they came."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.came: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.last: pb.RegisterRequest | None = None
        self.refuse = False
        self.start()

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(4))
        rpc.add_RegistrationServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(0).wait()
        self.socket.unlink(missing_ok=True)

    def Register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.Empty:
        self.last = request
        self.came.put(time.monotonic())
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not you")
        return pb.Empty()


@pytest.fixture
def kubelet(short_tmp: Path) -> Iterator[Kubelet]:
    fake = Kubelet(short_tmp / "kubelet.sock")
    yield fake
    fake.stop()


@pytest.fixture
def registration(short_tmp: Path) -> Iterator[KubeletRegistration]:
    listener = Listener("thing", short_tmp / "thing.sock")
    own = socket.socket(socket.AF_UNIX)
    own.bind(str(listener.path))
    made = KubeletRegistration(RESOURCE, listener, kubelet_socket=short_tmp / "kubelet.sock", preferred_allocation=True)
    yield made
    made.stop()
    own.close()


def test_it_registers_with_name_endpoint_and_options(kubelet: Kubelet, registration: KubeletRegistration) -> None:
    registration.start()
    kubelet.came.get(timeout=5)
    request = kubelet.last
    assert request is not None
    assert (request.version, request.resource_name, request.endpoint) == ("v1beta1", RESOURCE, "thing.sock")
    assert request.options.get_preferred_allocation_available
    assert not request.options.pre_start_required
    assert not registration.registered()  # the kubelet said yes, but watches nothing yet
    registration.stream_opened()
    assert registration.registered()


def test_it_waits_for_a_kubelet_that_is_not_there_yet(short_tmp: Path, registration: KubeletRegistration) -> None:
    registration.start()
    late = Kubelet(short_tmp / "kubelet.sock")
    try:
        late.came.get(timeout=5)
    finally:
        late.stop()


def test_while_a_stream_is_open_it_asks_no_more(kubelet: Kubelet, registration: KubeletRegistration) -> None:
    registration.start()
    kubelet.came.get(timeout=5)
    registration.stream_opened()
    with pytest.raises(queue.Empty):
        kubelet.came.get(timeout=3)


def test_a_new_kubelet_is_asked_at_once(kubelet: Kubelet, registration: KubeletRegistration) -> None:
    registration.start()
    kubelet.came.get(timeout=5)
    registration.stream_opened()
    kubelet.stop()
    registration.stream_closed()
    kubelet.start()
    restarted = time.monotonic()
    assert kubelet.came.get(timeout=5) - restarted < 1


def test_a_stream_that_the_kubelet_ended_brings_a_registration(
    kubelet: Kubelet, registration: KubeletRegistration
) -> None:
    """The kubelet let us go because another instance's stream ended: its socket is the same, and it never dials."""
    registration.start()
    kubelet.came.get(timeout=5)
    registration.stream_opened()
    registration.stream_opened()
    registration.stream_closed()  # one of two: still watched
    assert registration.registered()
    registration.stream_closed()
    ended = time.monotonic()
    assert kubelet.came.get(timeout=5) - ended < 1


def test_refusals_are_asked_again_ever_more_slowly(kubelet: Kubelet, registration: KubeletRegistration) -> None:
    kubelet.refuse = True
    registration.start()
    times = [kubelet.came.get(timeout=10) for _ in range(5)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.015
    assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(pauses))


def test_accepted_without_a_stream_is_not_registered(kubelet: Kubelet, registration: KubeletRegistration) -> None:
    registration.start()
    first = kubelet.came.get(timeout=5)
    assert kubelet.came.get(timeout=10) - first >= 1.9


def test_our_socket_was_wiped(kubelet: Kubelet, registration: KubeletRegistration, short_tmp: Path) -> None:
    """The kubelet could not dial back before the socket is there again: it is asked then, and only once."""
    registration.start()
    kubelet.came.get(timeout=5)
    registration.stream_opened()
    own = short_tmp / "thing.sock"
    own.rename(short_tmp / "aside.sock")
    kubelet.stop()
    registration.stream_closed()
    kubelet.start()
    with pytest.raises(queue.Empty):
        kubelet.came.get(timeout=0.5)
    (short_tmp / "aside.sock").rename(own)
    registration.republished("another listener")
    registration.republished("thing")
    kubelet.came.get(timeout=5)
    registration.stream_opened()
    with pytest.raises(queue.Empty):
        kubelet.came.get(timeout=0.5)


@pytest.fixture
def presence() -> Iterator[Callable[..., Presence]]:
    made: list[Presence] = []

    def make(poll: float) -> Presence:
        made.append(Presence(poll))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_presence_notices_what_happens_in_a_folder(tmp_path: Path, presence: Callable[..., Presence]) -> None:
    seen: queue.SimpleQueue[bool] = queue.SimpleQueue()
    watch = presence(60)
    watch.watch(tmp_path, lambda: seen.put((tmp_path / "file").exists()))
    watch.start()
    assert seen.get(timeout=5) is False
    (tmp_path / "file").touch()
    assert wait_for(seen, True)
    (tmp_path / "file").unlink()
    assert wait_for(seen, False)


def test_presence_finds_a_folder_that_comes_late_or_is_made_anew(
    tmp_path: Path, presence: Callable[..., Presence]
) -> None:
    folder = tmp_path / "late"
    seen: queue.SimpleQueue[bool] = queue.SimpleQueue()
    watch = presence(0.1)
    watch.watch(folder, lambda: seen.put((folder / "file").exists()))
    watch.start()
    folder.mkdir()
    (folder / "file").touch()
    assert wait_for(seen, True)
    (folder / "file").unlink()
    folder.rmdir()
    folder.mkdir()
    (folder / "file").touch()
    assert wait_for(seen, True)


def test_a_check_that_fails_does_not_end_the_watch(tmp_path: Path, presence: Callable[..., Presence]) -> None:
    ran = threading.Event()

    def broken() -> None:
        raise ZeroDivisionError

    watch = presence(60)
    watch.watch(tmp_path, broken)
    watch.watch(tmp_path, ran.set)
    watch.start()
    assert ran.wait(5)
    ran.clear()
    (tmp_path / "file").touch()
    assert ran.wait(5)


def wait_for(seen: queue.SimpleQueue[bool], value: bool) -> bool:
    while seen.get(timeout=5) is not value:
        pass
    return True
