"""The kubelet's plugin manager: brings what is registered in line with the sockets that lie in plugins_registry.

Once a tick: first unregister what is gone or was made anew, then register what is new. One operation per socket at a
time, in a thread of its own; a failed one is tried again with exponential back-off. A socket that was made anew is
unregistered in one tick and registered in the next, so it costs up to two of them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as pb
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as rpc
from plugins.lab.channels import dial, path_authority, reason
from plugins.lab.errors import LabError
from plugins.lab.journal import Journal
from plugins.lab.timings import KubeletTimings
from plugins.lab.watcher import RegistryWatcher


class Handler(Protocol):
    """What the kubelet does with one type of plugin; each method raises LabError to refuse."""

    def validate(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Refuse what can be refused without calling the plugin."""

    def register(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Take it."""

    def deregister(self, name: str, endpoint: str) -> None:
        """Its socket is gone."""


@dataclass(frozen=True)
class Registered:
    """A plugin in the actual state: its socket's identity at registration, and who handles it."""

    socket: Path
    identity: int
    kind: str
    name: str
    endpoint: str


def plan(desired: Mapping[Path, int], actual: Mapping[Path, Registered]) -> tuple[list[Registered], list[Path]]:
    """What to unregister, and what to register of that which is not registered at all."""
    gone = [p for path, p in actual.items() if desired.get(path) != p.identity]
    new = [path for path in desired if path not in actual]
    return gone, new


class Reconciler:
    """The loop. `tick()` does one round; start() makes rounds until stop()."""

    def __init__(
        self, watcher: RegistryWatcher, handlers: Mapping[str, Handler], journal: Journal, timings: KubeletTimings
    ) -> None:
        self._watcher = watcher
        self._handlers = handlers
        self._journal = journal
        self._timings = timings
        self._actual: dict[Path, Registered] = {}
        self._pending: dict[Path, threading.Thread] = {}
        self._failures: dict[Path, tuple[float, float]] = {}  # path -> (not before, delay)
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugin reconciler", daemon=True)

    def start(self) -> None:
        """The first round comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the rounds; operations under way finish within their own deadlines, unheard."""
        self._stopped.set()
        self._thread.join()

    def registered(self) -> list[Registered]:
        """The actual state."""
        with self._guard:
            return list(self._actual.values())

    def tick(self) -> None:
        """One round; starts operations and does not wait for them."""
        desired = self._watcher.desired()
        with self._guard:
            gone, new = plan(desired, self._actual)
        for plugin in gone:
            self._begin(plugin.socket, functools.partial(self._unregister, plugin))
        for path in new:
            self._begin(path, functools.partial(self._register, path, desired[path]))

    def _run(self) -> None:
        while True:
            self.tick()
            if self._stopped.wait(self._timings.tick):
                return

    def _begin(self, path: Path, operation: Callable[[], None]) -> None:
        with self._guard:
            not_before, _ = self._failures.get(path, (0.0, 0.0))
            if path in self._pending or time.monotonic() < not_before:
                return
            thread = threading.Thread(target=self._finish, args=(path, operation), daemon=True)
            self._pending[path] = thread
        thread.start()

    def _finish(self, path: Path, operation: Callable[[], None]) -> None:
        try:
            operation()
        except LabError as error:
            self._failed(path, error)
        else:
            with self._guard:
                self._failures.pop(path, None)
        finally:
            with self._guard:
                del self._pending[path]

    def _failed(self, path: Path, error: LabError) -> None:
        with self._guard:
            _, delay = self._failures.get(path, (0.0, 0.0))
            delay = min(delay * 2 or self._timings.backoff, self._timings.backoff_limit)
            self._failures[path] = (time.monotonic() + delay, delay)
        self._note("registration_failed", str(path), error=str(error), retry_after=delay)

    def _unregister(self, plugin: Registered) -> None:
        with self._guard:
            self._actual.pop(plugin.socket, None)
        self._handlers[plugin.kind].deregister(plugin.name, plugin.endpoint)
        self._note("unregister", plugin.name, type=plugin.kind, socket=plugin.socket)

    def _register(self, path: Path, identity: int) -> None:
        connection = dial(path, timeout=self._timings.dial, authority=path_authority(path))
        with connection:
            stub = rpc.RegistrationStub(connection)
            info = self._info(stub, path)
            endpoint = info.endpoint or str(path)
            versions = tuple(info.supported_versions)
            handler = self._handlers.get(info.type)
            if handler is None:
                self._refuse(stub, f"no handler registered for plugin type: {info.type} at socket {path}")
                return
            try:
                handler.validate(info.name, endpoint, versions)
            except LabError as error:
                self._refuse(stub, f"plugin validation failed with err: {error}")
            # Recorded before the handler runs: a removal that comes meanwhile becomes an unregistration.
            with self._guard:
                self._actual[path] = Registered(path, identity, info.type, info.name, endpoint)
            try:
                handler.register(info.name, endpoint, versions)
            except LabError as error:
                self._forget(path)
                self._refuse(stub, f"plugin registration failed with err: {error}")
            self._confirm(stub, path, handler, info.name, endpoint)
            self._note("register", info.name, type=info.type, socket=path, endpoint=endpoint, versions=versions)

    def _info(self, stub: rpc.RegistrationStub, path: Path) -> pb.PluginInfo:
        try:
            return stub.GetInfo(pb.InfoRequest(), timeout=self._timings.get_info)
        except grpc.RpcError as error:
            raise LabError(
                f"failed to get plugin info using RPC GetInfo at socket {path}, err: {reason(error)}"
            ) from error

    def _confirm(self, stub: rpc.RegistrationStub, path: Path, handler: Handler, name: str, endpoint: str) -> None:
        try:
            stub.NotifyRegistrationStatus(pb.RegistrationStatus(plugin_registered=True), timeout=self._timings.notify)
        except grpc.RpcError as error:
            self._forget(path)
            handler.deregister(name, endpoint)
            raise LabError(f"failed to send registration status at socket {path}, err: {reason(error)}") from error

    def _refuse(self, stub: rpc.RegistrationStub, why: str) -> None:
        """Tell the plugin no; always an error, so that the back-off grows."""
        text = f"RegisterPlugin error -- {why}"
        status = pb.RegistrationStatus(plugin_registered=False, error=text)
        try:
            stub.NotifyRegistrationStatus(status, timeout=self._timings.notify)
        except grpc.RpcError as error:
            raise LabError(f"{text}: {reason(error)}") from error
        raise LabError(text)

    def _forget(self, path: Path) -> None:
        with self._guard:
            self._actual.pop(path, None)

    def _note(self, kind: str, subject: str, **fields: object) -> None:
        """Nothing is recorded for a kubelet that is gone."""
        if not self._stopped.is_set():
            self._journal.record(kind, subject, **fields)
