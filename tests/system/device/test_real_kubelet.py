"""The same against the kubelet's own device and plugin managers, where a program that has them in it is at hand.

NODEPLUG_KUBELET_PROBE names it: commands on standard input, JSON lines on standard output (events with a wall clock
time `t`; "capacity" is what the node's status would say, looked at each millisecond).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.device.conftest import Daemon
from tests.system.device.conftest import NEEDS_ROOT, WAIT, Loop

PROBE = os.environ.get("NODEPLUG_KUBELET_PROBE", "")
pytestmark = [NEEDS_ROOT, pytest.mark.skipif(not PROBE, reason="NODEPLUG_KUBELET_PROBE names no kubelet probe")]

Event = dict[str, Any]
PREFIX = "nodeplug.internal/"


class Probe:
    """The program, its events, and a wait for one of them."""

    def __init__(self, root: Path) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        command = [PROBE, "kubelet", "-root", str(root)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mark(self) -> int:
        with self._changed:
            return len(self._events)

    def wait(self, true: Callable[[Event], bool], since: int = 0) -> Event:
        """The first event since the mark of which that is true."""
        found: list[Event] = []

        def look() -> bool:
            found[:] = [event for event in self._events[since:] if true(event)]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(look, WAIT), self._events[since:]
            return found[0]

    def allocatable(self, resource: str, number: int, since: int) -> float:
        """When that many were allocatable, in wall clock seconds."""
        name = PREFIX + resource
        event = self.wait(
            lambda e: e["ev"] == "capacity" and e["resource"] == name and e["allocatable"] == number, since
        )
        return float(event["t"])

    def command(self, line: str) -> Event:
        mark = self.mark()
        self.send(line)
        return self.wait(lambda event: event["ev"] == "reply", mark)

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                with self._changed:
                    self._events.append(json.loads(line))
                    self._changed.notify_all()


@pytest.fixture
def probe(short_tmp: Path) -> Iterator[Probe]:
    running = Probe(short_tmp / "k")
    try:
        running.wait(lambda event: event["ev"] == "kubelet_started")
        yield running
    finally:
        running.close()


def test_both_registrations_hotplug_restart_and_upgrade(
    probe: Probe, short_tmp: Path, loops: Callable[[], Loop], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = loops()
    config = "".join(
        f'[[resources]]\nname = "{way}-{name}"\nregistration = "{way}"\n'
        f'select = [{{ subsystem = "{subsystem}", name = "{device}" }}]\n'
        for way, name, subsystem, device in [
            ("kubelet", "null", "mem", "null"),
            ("watcher", "zero", "mem", "zero"),
            ("kubelet", "loop", "block", loop.name),
        ]
    )
    figures: dict[str, float] = {}
    first = Daemon(short_tmp, config)
    second = None
    try:
        started = time.time()
        figures["start, Register"] = probe.allocatable("kubelet-null", 1, 0) - started
        figures["start, watcher"] = probe.allocatable("watcher-zero", 1, 0) - started
        assert probe.command(f"alloc pod {PREFIX}kubelet-null=1")["ok"]
        times: list[float] = []
        for _ in range(10):
            mark, began = probe.mark(), time.time()
            loop.add()
            times.append(probe.allocatable("kubelet-loop", 1, mark) - began)
            mark = probe.mark()
            loop.remove()
            probe.allocatable("kubelet-loop", 0, mark)
        figures["loop device made -> allocatable"] = statistics.median(times)
        mark = probe.mark()
        probe.send("reexec")
        began = float(probe.wait(lambda event: event["ev"] == "kubelet_started", mark)["t"])
        figures["kubelet restart, Register"] = probe.allocatable("kubelet-null", 1, mark) - began
        figures["kubelet restart, watcher"] = probe.allocatable("watcher-zero", 1, mark) - began
        mark = probe.mark()
        second = Daemon(short_tmp, config)
        for resource in ("kubelet-null", "watcher-zero"):
            lost = probe.allocatable(resource, 0, mark)
            figures[f"upgrade, {resource} at zero"] = probe.allocatable(resource, 1, mark) - lost
        assert first.stop() == 0
        mark, began = probe.mark(), time.time()
        loop.add()
        figures["loop device after it all"] = probe.allocatable("kubelet-loop", 1, mark) - began
        assert second.stop() == 0
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
    with capsys.disabled():
        print(*(f"\n{what}: {1000 * seconds:.1f} ms" for what, seconds in figures.items()), end="")
    assert figures["loop device made -> allocatable"] < 0.020
