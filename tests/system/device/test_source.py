"""The udev source on real kernel events: nothing is missed, whatever goes wrong in between."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugins.device.hardware import Device, Wanted
from plugins.device.sources.udev import UdevSource
from tests import processes
from tests.system.device.conftest import NEEDS_ROOT, WAIT, Loop, Recorder

pytestmark = NEEDS_ROOT
BLOCK = Wanted(frozenset({"block"}))
Make = Callable[[], Loop]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def source(recorder: Recorder) -> Iterator[Callable[..., UdevSource]]:
    """Starts sources that tell the recorder."""
    started: list[UdevSource] = []

    def start(wanted: Wanted = BLOCK, receive_buffer: int = 1 << 20) -> UdevSource:
        started.append(UdevSource(wanted, recorder, receive_buffer=receive_buffer))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


Start = Callable[..., UdevSource]


def there(recorder: Recorder, *loops: Loop) -> bool:
    return recorder.wait(lambda: all(loop.sys_path in recorder.devices for loop in loops))


def gone(recorder: Recorder, *loops: Loop) -> bool:
    return recorder.wait(lambda: not any(loop.sys_path in recorder.devices for loop in loops))


def problem(recorder: Recorder, loop: Loop) -> str | None:
    found = recorder.devices.get(loop.sys_path)
    return found.problem if found is not None else None


def test_what_was_there_before_is_listed_and_what_comes_and_goes_is_told(
    recorder: Recorder, source: Start, loops: Make
) -> None:
    before, after = loops(), loops()
    before.add()
    source()
    assert before.sys_path in recorder.devices  # complete when start() returns
    after.add()
    assert there(recorder, after)
    found: Device = recorder.devices[after.sys_path]
    assert found.node is not None
    assert (found.node.path, found.node.kind, found.node.major) == (str(after.node), "b", 7)
    assert (found.subsystem, found.devtype, found.sys_name, found.problem) == ("block", "disk", after.name, "")
    before.remove()
    after.remove()
    assert gone(recorder, before, after)
    assert recorder.relisted == 1


def test_other_subsystems_are_not_looked_at(recorder: Recorder, source: Start, loops: Make) -> None:
    source(Wanted(frozenset({"misc"})))
    loop = loops()
    loop.add()
    loop.remove()
    assert {d.subsystem for d in recorder.devices.values()} == {"misc"}
    assert recorder.changes == 0


def test_attributes_are_read_again_when_the_kernel_says_that_something_changed(
    recorder: Recorder, source: Start, loops: Make
) -> None:
    loop = loops()
    loop.add()
    source(dataclasses.replace(BLOCK, attributes=frozenset({"queue/read_ahead_kb", "no-such-attribute"})))
    assert recorder.devices[loop.sys_path].attributes["queue/read_ahead_kb"] == "128"
    Path(loop.sys_path, "queue/read_ahead_kb").write_text("256")
    loop.announce()
    assert recorder.wait(lambda: recorder.devices[loop.sys_path].attributes["queue/read_ahead_kb"] == "256")
    assert "no-such-attribute" not in recorder.devices[loop.sys_path].attributes


def test_events_that_were_dropped_are_made_up_for(recorder: Recorder, source: Start, loops: Make) -> None:
    """A buffer of a few events and a source that is held up: the kernel drops the rest and says ENOBUFS."""
    going, coming = loops(), loops()
    going.add()
    source(receive_buffer=2048)
    assert there(recorder, going)
    recorder.gate.clear()
    going.announce()
    for _ in range(300):
        going.announce()
    coming.add()
    going.remove()
    recorder.gate.set()
    assert there(recorder, coming)
    assert gone(recorder, going)
    assert recorder.relisted >= 2
    third = loops()
    third.add()
    assert there(recorder, third)


def test_a_defect_of_whoever_is_told_does_not_end_the_source(recorder: Recorder, source: Start, loops: Make) -> None:
    source()
    first, second = loops(), loops()
    recorder.fail_next = True
    first.add()
    assert there(recorder, first)
    assert recorder.wait(lambda: recorder.relisted >= 2)
    second.add()
    assert there(recorder, second)


def test_a_node_that_comes_late_is_waited_for(recorder: Recorder, source: Start, loops: Make) -> None:
    """As on a system without devtmpfs, where something else makes the node after the event."""
    loop, aside = loops(), loops()
    loop.add()
    loop.node.rename(aside.node)
    source()
    assert problem(recorder, loop) == f"{loop.node} is not there"
    aside.node.rename(loop.node)
    assert recorder.wait(lambda: problem(recorder, loop) == "")
    assert recorder.relisted == 1


@pytest.mark.parametrize("kind", ["file", "link", "number"])
def test_a_node_that_is_replaced_is_noticed_when_somebody_asks(
    recorder: Recorder, source: Start, loops: Make, kind: str
) -> None:
    loop, aside = loops(), loops()
    loop.add()
    followed = source()
    assert problem(recorder, loop) == ""
    loop.node.rename(aside.node)
    if kind == "file":
        loop.node.touch()
    elif kind == "link":
        loop.node.symlink_to("/dev/null")
    else:
        os.mknod(loop.node, 0o600 | 0o060000, os.makedev(7, loop.number + 1))
    followed.recheck(loop.sys_path)
    words = {"file": "a regular file", "link": "a symbolic link", "number": "the one found was 7:"}
    assert recorder.wait(lambda: words[kind] in (problem(recorder, loop) or ""))
    loop.node.unlink()
    aside.node.rename(loop.node)
    assert recorder.wait(lambda: problem(recorder, loop) == "")


def test_without_a_rule_nothing_is_listed(recorder: Recorder, source: Start) -> None:
    source(Wanted(frozenset()))
    assert recorder.devices == {}


CHILD = """
import json, sys
from plugins.device.hardware import Wanted
from plugins.device.sources.udev import UdevSource
class Sink:
    def replace(self, devices): print(json.dumps("listed"), flush=True)
    def apply(self, changes): print(json.dumps(sorted(changes)), flush=True)
source = UdevSource(Wanted(frozenset({"block"})), Sink(), receive_buffer=1 << 20)
source.start()
sys.stdin.read()
source.stop()
"""


def test_events_reach_a_network_namespace_of_its_own(loops: Make) -> None:
    """A container without hostNetwork."""
    loop = loops()
    command = ["unshare", "--net", sys.executable, "-c", CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=processes.ROOT
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert json.loads(child.stdout.readline()) == "listed"
            loop.add()
            while loop.sys_path not in json.loads(child.stdout.readline()):
                pass  # events of somebody else's devices
            child.stdin.close()
            assert child.wait(WAIT) == 0
        finally:
            child.kill()
