"""Devices by udev: the kernel's own events first, and those of systemd-udevd where there is one.

The kernel's events reach every network namespace of the host's user namespace, so a container needs no hostNetwork;
they come before udevd has looked at the device. Where udevd runs its events follow, and the device is read again with
the properties, tags and links of the database.

An event says only "look there": the device is read as it is now, so that events which are late, doubled or out of
date do no harm. Nothing is missed: monitors are started before the devices are listed, and after any error (the
kernel drops events when nobody reads: ENOBUFS; libudev then fails for ever, often without an errno) the monitors are
made anew and everything is listed again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import pyudev

from plugins.core import log, metrics
from plugins.core.errors import ConfigError
from plugins.device.hardware import Device, Wanted
from plugins.device.sources.pending import Pending
from plugins.device.sources.reader import Reader, context

logger = log.get("device.udev")

_UDEVD = Path("/run/udev/control")
_BATCH = 512  # events that are read before the changes are passed on: a storm is seen while it lasts
_PAUSE = (0.05, 5.0)  # seconds between attempts to listen again, where the first failed at once

_events = metrics.counter("device_events_total", "Device events by source.", ("source",))
_resyncs = metrics.counter("device_resyncs_total", "Times that all devices were listed again after an error.")


class Sink(Protocol):
    """Who is told."""

    def replace(self, devices: Iterable[Device]) -> None:
        """These are all devices that there are."""

    def apply(self, changes: Mapping[str, Device | None]) -> None:
        """These are new or changed, or gone (None), by sysfs path."""


class UdevSource:
    """Lists devices and follows them, in a thread of its own."""

    def __init__(self, wanted: Wanted, sink: Sink, *, receive_buffer: int) -> None:
        """
        Args:
            wanted: which devices, and what of them.
            sink: is told everything from start() on, by one thread at a time.
            receive_buffer: bytes for events that are not read yet.

        Raises:
            ConfigError: libudev is not there.
        """
        self._wanted = wanted
        self._sink = sink
        self._receive_buffer = receive_buffer
        self._reader = Reader(context(), wanted)
        self._monitors: dict[str, pyudev.Monitor] = {}
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._known: set[str] = set()
        self._pending = Pending()
        self._asked: set[str] = set()
        self._guard = threading.Lock()  # for _asked
        self._thread = threading.Thread(target=self._run, name="udev", daemon=True)

    def start(self) -> None:
        """List everything, then follow. When this returns the sink has the whole list.

        Raises:
            ConfigError: the kernel's events cannot be listened to.
        """
        try:
            self._resync()
        except OSError as error:
            raise ConfigError(f"the kernel's device events cannot be listened to: {error}") from error
        self._thread.start()

    def stop(self) -> None:
        """End; the sink is not called any more when this returns."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        self._monitors.clear()
        os.close(self._wake)

    def recheck(self, sys_path: str) -> None:
        """Somebody found that this device is not as listed: read it again, soon. From any thread."""
        with self._guard:
            self._asked.add(sys_path)
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        pause = 0.0
        listening = True
        while not self._stopping:
            try:
                if listening:
                    self._step()
                    pause = 0.0
                else:
                    self._resync()
                    listening = True
            except Exception as error:  # noqa: BLE001 - a source that ends in silence is the worst of all
                logger.warning("device events were lost; listing all devices again", reason=repr(error))
                _resyncs.inc()
                listening = False
                self._wait(pause)
                pause = min(max(pause * 2, _PAUSE[0]), _PAUSE[1])

    def _step(self) -> None:
        """Wait for something to happen, and pass it on."""
        timeout = self._pending.due_in(time.monotonic())
        ready = dict(self._poll.poll(None if timeout is None else timeout * 1000 + 1))
        paths = {*self._take_asked(ready), *self._pending.take_due(time.monotonic())}
        last: dict[str, bool] = dict.fromkeys(sorted(paths), False)
        for source in ("udev", "kernel"):  # the kernel's word is the later one
            monitor = self._monitors.get(source)
            if monitor is not None and monitor.fileno() in ready:
                last.update(self._receive(source, monitor))
        changes = {path: None if gone else self._reader.one(path) for path, gone in last.items()}
        if changes:
            self._tell(changes)

    def _receive(self, source: str, monitor: pyudev.Monitor) -> dict[str, bool]:
        """The devices that the waiting events speak of, and whether the last event of each says that it is gone."""
        last: dict[str, bool] = {}
        for _ in range(_BATCH):
            event = monitor.poll(0)
            if event is None:
                break
            _events.inc(source=source)
            last.update(self._meant(source, event))
        return last

    def _meant(self, source: str, event: pyudev.Device) -> Iterable[tuple[str, bool]]:
        path, action = event.sys_path, event.action
        if action == "move":
            yield "/sys" + event.properties.get("DEVPATH_OLD", ""), True
        if self._wanted.subsystems is None or event.subsystem in self._wanted.subsystems:
            # sysfs still shows a device when the kernel says that it goes, so the word of the kernel counts. udevd
            # repeats it later, when a new device may have taken the place: then what is there now counts.
            yield path, action == "remove" and source == "kernel"
        parents = self._wanted.parents
        if action in ("change", "bind", "unbind") and parents != frozenset():
            yield from ((child, False) for child in self._known if child.startswith(path + "/"))

    def _resync(self) -> None:
        self._monitors = {}
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        sources = ("kernel", "udev") if _UDEVD.exists() else ("kernel",)
        self._monitors = {source: self._listen(source) for source in sources}
        devices = list(self._reader.all())
        self._known = {device.sys_path for device in devices}
        self._pending = Pending()
        self._pending.update({device.sys_path: device for device in devices}, time.monotonic())
        self._sink.replace(devices)

    def _listen(self, source: str) -> pyudev.Monitor:
        monitor = pyudev.Monitor.from_netlink(self._reader.context, source)
        subsystems, parents = self._wanted.subsystems, self._wanted.parents
        if subsystems is not None and parents is not None:
            for subsystem in sorted(subsystems | parents):
                monitor.filter_by(subsystem)
        try:
            monitor.set_receive_buffer_size(self._receive_buffer)
        except OSError:  # without CAP_NET_ADMIN: as much as net.core.rmem_max allows
            logger.debug("the receive buffer is smaller than wanted", wanted=self._receive_buffer)
        monitor.start()
        self._poll.register(monitor.fileno(), select.POLLIN)
        return monitor

    def _tell(self, changes: Mapping[str, Device | None]) -> None:
        for path, device in changes.items():
            if device is None:
                self._known.discard(path)
            else:
                self._known.add(path)
        self._pending.update(changes, time.monotonic())
        self._sink.apply(changes)

    def _take_asked(self, ready: Mapping[int, int]) -> set[str]:
        if self._wake not in ready:
            return set()
        os.eventfd_read(self._wake)
        with self._guard:
            asked, self._asked = self._asked, set()
        return asked

    def _wait(self, seconds: float) -> None:
        waiter = select.poll()
        waiter.register(self._wake, select.POLLIN)
        if waiter.poll(seconds * 1000):
            os.eventfd_read(self._wake)  # whatever was asked for: everything is about to be listed
