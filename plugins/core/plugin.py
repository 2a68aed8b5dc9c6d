"""What a daemon is apart from its lifecycle: the interface between `core` and a plugin.

A plugin is a domain and some wiring. `core` gives it a configuration, an open store and its state directory, asks it
to start, opens the servers that it names, registers it, and later ends all that in the opposite order. A plugin
object lives for one such period: a process that takes everything back after a failed hand-over builds a new one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    import grpc

    from plugins.core.store import Migration, Store

C = TypeVar("C", bound=DaemonConfig)

Service = Callable[["grpc.Server"], None]
"""Adds one service to a server: `functools.partial(add_NodeServicer_to_server, servicer)`."""


@dataclass(frozen=True)
class Listener:
    """A public socket.

    name: its key in a hand-over; the same in every release.
    path: where callers find it; at most 107 bytes (sun_path, unix(7)).
    mode, gid: of the socket; None takes `socket_mode` and `socket_gid` of the configuration, gid -1 leaves the group.
    keep: stays in place when the daemon stops (the CSI registration socket: its removal takes the driver off CSINode).
    """

    name: str
    path: Path
    mode: int | None = None
    gid: int | None = None
    keep: bool = False


@dataclass(frozen=True)
class Server:
    """One gRPC server: the services behind one or more public sockets. Health is always served beside them.

    workers: threads for unary calls, made on demand; more than the half-sent calls that the acceptor lets go on (4).
    """

    name: str
    services: tuple[Service, ...]
    listeners: tuple[Listener, ...]
    workers: int = 32


class Registration(Protocol):
    """A way to be known to the kubelet: see `registration.watcher` and `registration.kubelet`."""

    name: str

    def start(self) -> None:
        """Begin; called when the sockets answer. Must not block on the kubelet."""

    def registered(self) -> bool:
        """Whether the kubelet said that it took the plugin."""

    def inherit(self) -> None:
        """The process before us was registered under this name and its sockets live on in us."""

    def republished(self, listener: str) -> None:
        """The public socket of that name was lost (the kubelet wipes folders) and has just been bound anew."""

    def stop(self) -> None:
        """End; called before the servers stop."""


@dataclass(frozen=True)
class Runtime(Generic[C]):
    """What a plugin object is given for its life.

    config: checked and complete.
    store: open and migrated; closed by core after `Plugin.stop`.
    state_dir: private to this daemon (0700), locked against a second process.
    """

    config: C
    store: Store
    state_dir: Path


class Plugin(abc.ABC, Generic[C]):
    """One daemon's domain between a start and a stop."""

    def __init__(self, runtime: Runtime[C]) -> None:
        self.runtime = runtime

    @abc.abstractmethod
    def start(self) -> Sequence[Server]:
        """Make the domain ready: settle open intents, reconcile with the kernel, start own threads.

        Returns:
            The servers to open.

        Raises:
            ConfigError: it cannot run on this node as configured; the message says what to do.
        """

    def registrations(self) -> Sequence[Registration]:
        """How the kubelet is told; called once, after start()."""
        return ()

    def drain(self) -> None:
        """End every stream and take no new background work; calls under way still finish."""

    def stop(self) -> None:
        """Release what start() took, also after one that failed. No call is under way; the store is still open."""

    def reload(self, config: C) -> None:
        """Put a changed configuration in force, wholly or not at all; core itself takes log_level.

        Called at SIGHUP too when nothing changed: files that the configuration names may have.

        Raises:
            ConfigError: it needs a restart, or is impossible; the old one stays in force.
        """
        if msgspec.structs.replace(config, log_level=self.runtime.config.log_level) != self.runtime.config:
            raise ConfigError("this change takes effect at the next start of the daemon")


@dataclass(frozen=True)
class DaemonSpec(Generic[C]):
    """All that `core` must know of a daemon to give it a command line and a life.

    name: the subcommand ("csi").
    summary: one line for --help.
    config: the configuration type.
    build: makes the plugin object.
    migrations: of its store.
    describe: what `check-config` prints, one fact a line; may raise ConfigError.
    tools: adds subcommands for people; each sets `run=function(args) -> exit code` as a default.
    sockets: where public sockets will be, as far as the configuration tells: their length is checked before a start.
    quiet: RPC names (last part) whose success is logged at debug level only.
    """

    name: str
    summary: str
    config: type[C]
    build: Callable[[Runtime[C]], Plugin[C]]
    migrations: Sequence[Migration] = ()
    describe: Callable[[C], Sequence[str]] = field(default=lambda config: ())
    tools: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None] | None = None
    sockets: Callable[[C], Sequence[Path]] = field(default=lambda config: [config.socket] if config.socket else [])
    quiet: frozenset[str] = frozenset()


def state_dir(config: DaemonConfig, daemon: str) -> Path:
    """The daemon's state directory: as configured, or the usual place."""
    return config.state_dir or Path("/var/lib/nodeplug") / daemon
