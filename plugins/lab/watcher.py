"""The kubelet's watch on plugins_registry: which sockets lie there, and which were made anew.

As the kubelet's plugin watcher: inotify on the folder and its sub-folders. A Create (a file appears: by bind, or by a
rename into the folder, over an existing file too) gives the path a new identity; a Remove (unlink) takes it away. A
file that is *moved* away is no Remove: the kubelet does not notice it. Names that begin with a dot, and files that are
no sockets, are ignored.
"""

from __future__ import annotations

import itertools
import os
import select
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

_CREATE = flags.CREATE | flags.MOVED_TO
_REMOVE = flags.DELETE


class RegistryWatcher:
    """The desired state of the plugin manager: path of a socket -> its identity (a new number per Create)."""

    def __init__(self, folder: Path, changed: Callable[[], None] = lambda: None) -> None:
        """changed: called after every change, from the watching thread."""
        self._folder = folder
        self._changed = changed
        self._sockets: dict[Path, int] = {}
        self._identities = itertools.count(1)
        self._guard = threading.Lock()
        self._inotify = INotify()
        self._watched: dict[int, Path] = {}
        self._wake = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="plugin watcher", daemon=True)

    def start(self) -> None:
        """Make the folder if it is not there, take what lies in it, and watch."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._traverse(self._folder)
        self._thread.start()

    def stop(self) -> None:
        """End the watch; what was found stays known."""
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._inotify.close()
        os.close(self._wake)

    def desired(self) -> dict[Path, int]:
        """The sockets that should be registered, each with its identity."""
        with self._guard:
            return dict(self._sockets)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            if any(fd == self._wake for fd, _ in poll.poll()):
                return
            for event in self._inotify.read(timeout=0):
                folder = self._watched.get(event.wd)
                if folder is not None and event.name:
                    self._handle(folder / event.name, event.mask)
            self._changed()

    def _handle(self, path: Path, mask: int) -> None:
        if mask & _CREATE:
            self._created(path)
        elif mask & _REMOVE:
            with self._guard:
                self._sockets.pop(path, None)

    def _created(self, path: Path) -> None:
        if path.name.startswith("."):
            return
        try:
            mode = path.stat().st_mode
        except OSError:  # gone again
            return
        if stat.S_ISDIR(mode):
            self._traverse(path)
        elif stat.S_ISSOCK(mode):
            with self._guard:
                self._sockets[path] = next(self._identities)

    def _traverse(self, folder: Path) -> None:
        """Watch a folder before reading it, so that nothing slips between the two."""
        try:
            self._watched[self._inotify.add_watch(folder, _CREATE | _REMOVE)] = folder
        except OSError:  # gone again
            return
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                self._traverse(entry)
            else:
                self._created(entry)
