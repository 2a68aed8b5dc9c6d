"""One period of serving: from an open store to its close. A process may live several (a hand-over that failed).

Start reads from top to bottom as DESIGN says: store, domain, sockets, servers, registration. Every step pushes its
opposite, so that a failure in the middle, and a stop, undo exactly what was done, in the opposite order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Generic, TypeVar

from plugins.core import log, sockets
from plugins.core.acceptor import Acceptor, PeerPolicy
from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError
from plugins.core.handover import Inherited
from plugins.core.plugin import DaemonSpec, Listener, Plugin, Registration, Runtime, Server
from plugins.core.registration.presence import Presence
from plugins.core.server import RunningServer
from plugins.core.sockets import PublicSocket
from plugins.core.store import Store

logger = log.get("life")

C = TypeVar("C", bound=DaemonConfig)
_BACKENDS = "run"  # folder of the private sockets, in the state directory


class Life(Generic[C]):
    """A plugin with everything around it, while it serves."""

    def __init__(self, spec: DaemonSpec[C], config: C, state_dir: Path) -> None:
        self._spec = spec
        self._config = config
        self._state_dir = state_dir
        self._undo = contextlib.ExitStack()
        self._sockets: dict[str, PublicSocket] = {}
        self._new: list[PublicSocket] = []  # bound by this life, not handed over
        self._backends: dict[str, str] = {}
        self._servers: list[RunningServer] = []
        self._registrations: tuple[Registration, ...] = ()
        self._plugin: Plugin[C] | None = None
        self._acceptor = Acceptor(_policy(config), name=spec.name)
        self._presence = Presence()

    def start(self, inherited: Inherited) -> None:
        """Serve and register.

        Raises:
            NodeplugError: what stood in the way; everything done so far is undone, inherited sockets stay open.
        """
        self._undo.callback(self._acceptor.close)  # also if it is never started; closing twice is no harm
        try:
            store = Store(self._state_dir / "state.db", self._spec.migrations)
            self._undo.callback(store.close)
            self._plugin = self._spec.build(Runtime(self._config, store, self._state_dir))
            self._undo.callback(self._plugin.stop)
            specs = self._plugin.start()
            self._registrations = tuple(self._plugin.registrations())
            for spec in specs:
                self._open(spec, inherited)
            self._acceptor.start()
            self._undo.callback(self._acceptor.close)
            self._register(inherited)
        except BaseException:
            self._undo.close()
            self._remove_new_sockets()
            raise

    def paths(self) -> list[str]:
        """The public sockets."""
        return [str(public.spec.path) for public in self._sockets.values()]

    def registered(self) -> list[str]:
        """Names of the registrations that the kubelet has accepted."""
        return [r.name for r in self._registrations if r.registered()]

    def pending(self) -> list[str]:
        """Names of the registrations that it has not accepted yet."""
        return [r.name for r in self._registrations if not r.registered()]

    def reload(self, config: C) -> None:
        """Put a changed configuration in force, wholly or not at all; raises ConfigError."""
        if self._plugin is None:
            raise ConfigError("the daemon is not serving")
        self._plugin.reload(config)
        self._config = config

    def finish(self) -> list[PublicSocket]:
        """End serving and leave the public sockets open with their files in place, for a successor."""
        self._presence.stop()
        for registration in self._registrations:
            registration.stop()
        for server in self._servers:
            server.serving(False)
        if self._plugin is not None:
            self._plugin.drain()
        if not self._acceptor.drain(self._config.grace):
            logger.warning("connections were cut at the end of the grace period", grace_s=self._config.grace)
        self._undo.close()
        return list(self._sockets.values())

    def stop(self) -> None:
        """End serving for good: public files go, but for those that are to stay."""
        for public in self.finish():
            if not public.spec.keep:
                public.unlink()
            public.close()

    def _open(self, spec: Server, inherited: Inherited) -> None:
        server = RunningServer(spec, self._backend(spec.name), self._spec.quiet)
        self._servers.append(server)
        self._undo.callback(server.stop, self._config.grace)
        server.start()
        for listener in map(self._complete, spec.listeners):
            public = inherited.take(listener)
            if public is None:
                public = sockets.bind(listener)
                self._new.append(public)
            self._sockets[listener.name] = public
            self._backends[listener.name] = server.backend
            self._acceptor.add(public.socket, server.backend)

    def _complete(self, listener: Listener) -> Listener:
        """A listener with mode and group, from the configuration where it names none."""
        mode = self._config.socket_mode if listener.mode is None else listener.mode
        gid = self._config.socket_gid if listener.gid is None else listener.gid
        return dataclasses.replace(listener, mode=mode, gid=gid)

    def _backend(self, name: str) -> str:
        """A private socket's path. Through a descriptor, so that the state directory's length does not count."""
        if not self._backends:
            folder = self._state_dir / _BACKENDS
            folder.mkdir(mode=0o700, exist_ok=True)
            for left in folder.iterdir():  # by a process that was killed: we hold the lock
                left.unlink()
            self._directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            self._undo.callback(os.close, self._directory)
        return f"/proc/self/fd/{self._directory}/{name.replace('/', '_')}"

    def _register(self, inherited: Inherited) -> None:
        for registration in self._registrations:
            if registration.name in inherited.registered:
                registration.inherit()
            registration.start()
        for folder in {public.spec.path.parent for public in self._sockets.values()}:
            self._presence.watch(folder, self._keep_sockets)
        self._presence.start()

    def _remove_new_sockets(self) -> None:
        for public in self._new:
            public.unlink()
            public.close()

    def _keep_sockets(self) -> None:
        """Bind again what was lost: the kubelet wipes its folders when it starts."""
        for name, public in list(self._sockets.items()):
            if not public.owned():
                self._republish(name, public)

    def _republish(self, name: str, lost: PublicSocket) -> None:
        listener: Listener = lost.spec
        try:
            public = sockets.bind(listener)
        except ConfigError as error:
            logger.error(
                "a public socket was lost and cannot be made again", socket=str(listener.path), reason=error.message
            )
            return
        self._acceptor.add(public.socket, self._backends[name])
        self._acceptor.remove(lost.socket)
        self._sockets[name] = public
        lost.close()
        logger.warning("a public socket was lost and has been made again", socket=str(listener.path))
        for registration in self._registrations:
            registration.republished(name)


def _policy(config: DaemonConfig) -> PeerPolicy:
    return PeerPolicy(uids=frozenset({*config.allow_uids, os.geteuid()}), gids=frozenset(config.allow_gids))
