"""Notices at once when files that we depend on are lost or made anew, with a slow poll as the net under it.

The kubelet wipes the sockets of its folders when it starts and makes kubelet.sock anew. inotify tells within a
millisecond; the poll covers folders that did not exist yet and events that were lost. A check only ever compares and
repairs, so that one too many costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

from plugins.core import log

logger = log.get("presence")

_MASK = flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.CLOSE_WRITE | flags.DELETE_SELF
_MASK |= flags.MOVE_SELF | flags.ATTRIB | flags.ONLYDIR


class Presence:
    """One thread that runs checks when something happens in their folder, and every `poll` seconds."""

    def __init__(self, poll: float = 5.0) -> None:
        self._poll = poll
        self._checks: list[tuple[Path, Callable[[], None]]] = []
        self._watched: dict[Path, int] = {}
        self._stopping = False
        self._inotify = INotify()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def watch(self, folder: Path, check: Callable[[], None]) -> None:
        """Run check in this object's thread on any change of folder's entries. May be called at any time."""
        self._checks.append((folder, check))
        self._wake()

    def start(self) -> None:
        """Run every check once, then on events."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no check runs any more when this returns."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._inotify.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._inotify.fileno(), select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        changed: set[Path] | None = None  # None: everything
        while not self._stopping:
            self._watch_folders()
            for folder, check in list(self._checks):
                if changed is None or folder in changed:
                    self._run_check(check)
            ready = {descriptor for descriptor, _ in poller.poll(self._poll * 1000)}
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            changed = self._changed() if ready == {self._inotify.fileno()} else None

    def _changed(self) -> set[Path] | None:
        """The folders in which something happened; None where a watch was lost or events were dropped."""
        events = self._inotify.read(timeout=0)
        by_descriptor = {descriptor: folder for folder, descriptor in self._watched.items()}
        folders: set[Path] | None = set()
        for event in events:
            folder = by_descriptor.get(event.wd)
            if event.mask & (flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF | flags.Q_OVERFLOW) or folder is None:
                if folder is not None:
                    self._watched.pop(folder, None)
                folders = None
            elif folders is not None:
                folders.add(folder)
        return folders

    def _watch_folders(self) -> None:
        for folder, _ in list(self._checks):
            if folder not in self._watched:
                with contextlib.suppress(OSError):  # not there yet: the poll comes back to it
                    self._watched[folder] = self._inotify.add_watch(folder, _MASK)

    def _run_check(self, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001 - one check that fails must not end the watch over the others
            logger.error("a check of the files that this daemon depends on failed", exc=error)
