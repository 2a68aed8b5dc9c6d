"""One daemon per state directory, and how a new process takes over from the old one.

The lock (flock) says who serves; the control socket in the state directory is where a successor asks for it:

    new -> old   {"op": "handover"}
    old -> new   {"op": "listeners", "sockets": [...], "registered": [...]}  with the listening descriptors (SCM_RIGHTS)
    new -> old   {"op": "ready"}

Between the first two lines the old one finishes what is under way, closes its store and releases the lock. If the
connection ends, or the time runs out, before "ready", the old one takes everything back. A listening socket that is
passed keeps its file and its queue: connections made meanwhile wait for the new process, and none is refused.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugins.core import log
from plugins.core.errors import ConfigError
from plugins.core.plugin import Listener
from plugins.core.sockets import FileIdentity, PublicSocket, adopt

logger = log.get("handover")

_CONTROL = "control.sock"
_MESSAGE_LIMIT = 1 << 18  # bytes of one control message
_MAX_SOCKETS = 250  # SCM_MAX_FD is 253 (unix(7))


class StateLock:
    """The flock on a state directory; held by the process that serves."""

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigError where the directory cannot be used."""
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the state directory {state_dir} cannot be used: {error.strerror}") from error

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return True

    def acquire(self, timeout: float) -> bool:
        """Take the lock within timeout seconds. flock has no deadline of its own, so this asks 50 times a second."""
        end = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def holder(self) -> str:
        """Who holds it, as far as the file tells (a process id of the holder's own pid namespace)."""
        return os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "an unknown process"

    def release(self) -> None:
        """Let go; the directory may be taken by another process."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go for good."""
        os.close(self._fd)


@dataclass
class Inherited:
    """What a process was handed: listening sockets by listener name, and which registrations are in force."""

    sockets: dict[str, tuple[int, Path, FileIdentity]] = field(default_factory=dict)
    registered: frozenset[str] = frozenset()
    connection: socket.socket | None = None

    def take(self, spec: Listener) -> PublicSocket | None:
        """The socket of that listener if it was handed over and is still the one at the listener's path."""
        found = self.sockets.get(spec.name)
        if found is None or found[1] != spec.path:
            return None
        del self.sockets[spec.name]
        return adopt(spec, found[0], found[2])

    def ready(self) -> None:
        """Tell the old process that it is relieved; forget what was not taken."""
        self._close_sockets(unlink=True)
        if self.connection is not None:
            with contextlib.suppress(OSError), self.connection as connection:
                _send(connection, {"op": "ready"})
            self.connection = None

    def give_up(self) -> None:
        """End without having become ready: the old process takes everything back."""
        self._close_sockets(unlink=False)
        if self.connection is not None:
            self.connection.close()

    def _close_sockets(self, *, unlink: bool) -> None:
        for descriptor, path, identity in self.sockets.values():
            left = adopt(Listener("", path), descriptor, identity)
            if unlink:
                left.unlink()
            left.close()
        self.sockets.clear()


def claim(lock: StateLock, state_dir: Path, timeout: float) -> Inherited:
    """Become the process of this state directory: at once if it is free, else by a hand-over.

    Args:
        timeout: seconds that the other process may take.

    Raises:
        ConfigError: another process holds it and did not hand over in time; says which.
    """
    if lock.try_acquire():
        return Inherited()
    inherited = _ask(state_dir, timeout) or Inherited()
    if lock.acquire(timeout):
        return inherited
    inherited.give_up()
    raise ConfigError(
        f"the state directory {state_dir} is held by process {lock.holder()}, which did not hand over within "
        f"{timeout:g} s; stop that process or choose another --state-dir"
    )


def _ask(state_dir: Path, timeout: float) -> Inherited | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(timeout)
    try:
        _at(state_dir, connection.connect)
        _send(connection, {"op": "handover", "pid": os.getpid()})
        message, descriptors = _receive(connection)
    except (OSError, ValueError) as error:
        connection.close()
        logger.warning(
            "the process that holds the state directory does not answer; waiting for its lock", reason=str(error)
        )
        return None
    sockets = {
        entry["name"]: (descriptor, Path(entry["path"]), FileIdentity(*entry["identity"]))
        for entry, descriptor in zip(message["sockets"], descriptors, strict=True)
    }
    logger.info("took over from the process before", sockets=len(sockets))
    return Inherited(sockets, frozenset(message["registered"]), connection)


class Successor:
    """The old process's side of one hand-over: the connection to the process that wants to take over."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def give(self, sockets: Sequence[PublicSocket], registered: Sequence[str]) -> None:
        """Pass the listening sockets. They stay open here too, until the other side is ready.

        Raises:
            OSError: the other side is gone.
        """
        entries = [
            {"name": s.spec.name, "path": str(s.spec.path), "identity": s.identity} for s in sockets[:_MAX_SOCKETS]
        ]
        message = {"op": "listeners", "sockets": entries, "registered": list(registered)}
        _send(self._connection, message, [s.socket.fileno() for s in sockets[:_MAX_SOCKETS]])

    def watch(self, timeout: float, done: Callable[[bool], None]) -> None:
        """Call done(True) when the other side is ready, done(False) when it is gone or the time is over."""

        def wait() -> None:
            with self._connection:
                done(self._became_ready(timeout))

        threading.Thread(target=wait, name="handover", daemon=True).start()

    def _became_ready(self, timeout: float) -> bool:
        self._connection.settimeout(timeout)
        try:
            return bool(_receive(self._connection)[0].get("op") == "ready")
        except (OSError, ValueError):
            return False


class ControlSocket:
    """Where a successor asks. One thread accepts; the daemon's main thread does the work."""

    def __init__(self, state_dir: Path, on_request: Callable[[Successor], None]) -> None:
        self._on_request = on_request
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        hidden = f".{_CONTROL}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            (state_dir / hidden).unlink()
        _at(state_dir, self._socket.bind, hidden)
        os.chmod(state_dir / hidden, 0o600)
        self._socket.listen(1)
        os.rename(state_dir / hidden, state_dir / _CONTROL)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more; the file stays, the next process replaces it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread; close alone would not
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(2)
            try:
                asked = _receive(connection)[0].get("op") == "handover"
            except (OSError, ValueError):
                asked = False
            if asked:
                self._on_request(Successor(connection))
            else:
                connection.close()


def _at(state_dir: Path, call: Callable[[str], object], name: str = _CONTROL) -> None:
    """Use a socket in the state directory through a descriptor: its path may be longer than 107 bytes."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        call(f"/proc/self/fd/{directory}/{name}")
    finally:
        os.close(directory)


def _send(connection: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([json.dumps(message).encode()], ancillary)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    payload, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_LIMIT, _MAX_SOCKETS)
    if not payload:
        raise ValueError("the other side closed the connection")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    message = json.loads(payload)
    if not isinstance(message, dict):
        raise ValueError("not a control message")
    return message, descriptors
