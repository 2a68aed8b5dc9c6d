"""Real loop devices without a backing file: real kernel events, real nodes, nothing of anybody else's."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from plugins.device.hardware import Device

WAIT = 20.0  # seconds after which something that should have happened has not
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: loop devices are made and removed")
_ADD, _REMOVE = 0x4C80, 0x4C81  # LOOP_CTL_ADD, LOOP_CTL_REMOVE (linux/loop.h)
_UEVENT = 15  # NETLINK_KOBJECT_UEVENT (linux/netlink.h)

# Far from what losetup takes, and another hundred for each process of tests.
_numbers = itertools.count(70_000 + os.getpid() % 9_000 * 100)


class Loop:
    """One loop device."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.name = f"loop{self.number}"
        self.node = Path(f"/dev/{self.name}")
        self.sys_path = f"/sys/devices/virtual/block/{self.name}"

    def add(self) -> None:
        self._control(_ADD)

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # not there
            self._control(_REMOVE)

    def announce(self) -> None:
        """Make the kernel say that it changed."""
        Path(self.sys_path, "uevent").write_text("change")

    def clean(self) -> None:
        """Remove it, and what a test put in the place of its node: the kernel only removes its own."""
        self.remove()
        with contextlib.suppress(FileNotFoundError):
            self.node.unlink()

    def _control(self, request: int) -> None:
        control = os.open("/dev/loop-control", os.O_RDWR)
        try:
            fcntl.ioctl(control, request, self.number)
        finally:
            os.close(control)


@pytest.fixture
def loops() -> Iterator[Callable[[], Loop]]:
    """Makes loop devices known, not yet added; all are removed at the end."""
    with contextlib.ExitStack() as undo:

        def make() -> Loop:
            loop = Loop()
            undo.callback(loop.clean)
            return loop

        yield make


class Recorder:
    """A sink that keeps what it is told; a test waits for a state of it."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.relisted = 0
        self.changes = 0
        self.gate = threading.Event()  # cleared: whoever tells something waits
        self.gate.set()
        self.fail_next = False
        self._changed = threading.Condition()

    def replace(self, devices: object) -> None:
        self.gate.wait()
        with self._changed:
            self.devices = {d.sys_path: d for d in devices}  # type: ignore[attr-defined]
            self.relisted += 1
            self._changed.notify_all()

    def apply(self, changes: Mapping[str, Device | None]) -> None:
        self.gate.wait()
        with self._changed:
            self.changes += 1
            if self.fail_next:
                self.fail_next = False
                raise RuntimeError("a defect in the sink")
            for path, found in changes.items():
                self.devices.pop(path, None)
                if found is not None:
                    self.devices[path] = found
            self._changed.notify_all()

    def wait(self, true: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(true, WAIT)


class KernelEvents:
    """When the kernel's events of a device came, by the monotonic clock: a socket that does nothing else."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _UEVENT)
        self._socket.bind((0, 1))
        self._socket.settimeout(0.1)
        self._stopping = False
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def time(self, what: str) -> float:
        """Of "add@/devices/..."."""
        with self._changed:
            assert self._changed.wait_for(lambda: what in self._times, WAIT)
            return self._times[what]

    def forget(self) -> None:
        """Events of before do not count."""
        with self._changed:
            self._times.clear()

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                message = self._socket.recv(8192)
                now = time.monotonic()
                with self._changed:
                    self._times[message.partition(b"\0")[0].decode()] = now
                    self._changed.notify_all()
