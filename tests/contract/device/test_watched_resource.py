"""Registration by the plugin watcher: a kubelet that does not watch is made to register again, and only that one."""

from __future__ import annotations

from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as pb
from plugins.device.registration import WatchedResource
from tests.contract.device.conftest import WAIT

CONTEXT: object = None  # the servicer does not look at it


class File:
    """A socket's file, and whether it is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def removed(self) -> bool:
        with INotify() as watch:
            watch.add_watch(self.path.parent, flags.DELETE)
            return not self.path.exists() or bool(watch.read(timeout=int(WAIT * 1000)))


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "it-reg.sock")


def resource(file: File, grace: float) -> WatchedResource:
    made = WatchedResource("nodeplug.internal/it", file.path, grace=grace)
    made.start()
    return made


def notify(made: WatchedResource, registered: bool = True) -> None:
    made.NotifyRegistrationStatus(pb.RegistrationStatus(plugin_registered=registered), CONTEXT)  # type: ignore[arg-type]


def waits(made: WatchedResource) -> bool:
    return made._timer is not None


def test_no_stream_after_the_kubelet_said_yes(file: File) -> None:
    notify(resource(file, 0.05))
    assert file.removed()


def test_the_last_stream_ended(file: File) -> None:
    made = resource(file, 0.05)
    made.stream_opened()
    made.stream_opened()
    notify(made)
    made.stream_closed()
    made.stream_closed()
    assert file.removed()


def test_a_successor_is_registered_anew_at_once(file: File) -> None:
    made = WatchedResource("nodeplug.internal/it", file.path)
    made.inherit()
    made.start()
    assert not file.path.exists()


def test_while_there_is_no_reason_nothing_is_done(file: File) -> None:
    """No timer runs: there is nothing to wait for."""
    made = resource(file, 0.0)
    made.stream_opened()
    made.stream_closed()  # the kubelet has not said yes: it will, or it will not
    notify(made, registered=False)
    made.stream_opened()
    notify(made)
    assert not waits(made)
    assert file.path.exists()


def test_a_stream_in_time_or_a_stop_ends_the_wait(file: File) -> None:
    made = resource(file, 3600.0)
    notify(made)
    assert waits(made)
    made.stream_opened()
    assert not waits(made)
    made.stream_closed()
    made.stop()
    assert not waits(made)
    made.stream_opened()
    made.stream_closed()
    assert not waits(made)
    assert file.path.exists()
