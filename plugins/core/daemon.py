"""The life of a daemon process: lock or hand-over, serve, reload, yield, take back, stop.

Signals and requests become events in one queue, and the main thread handles them one after the other. States:
serving -> (hand-over asked) -> yielding -> (successor ready) -> yielded -> (SIGTERM) -> end, and back from yielding to
serving when the successor fails. A yielded process touches nothing and does not end by itself: the kubelet would start
its container again, and the new instance would ask for everything back.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar

from plugins.core import log, memory, signals
from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError, NodeplugError
from plugins.core.handover import ControlSocket, Inherited, StateLock, Successor, claim
from plugins.core.http import StatusPages
from plugins.core.life import Life
from plugins.core.plugin import DaemonSpec, state_dir
from plugins.core.registration.presence import Presence
from plugins.core.sockets import PublicSocket

logger = log.get("daemon")

C = TypeVar("C", bound=DaemonConfig)


class State(enum.Enum):
    """Where the process is; what /readyz says."""

    STARTING = "starting"
    SERVING = "serving"
    YIELDING = "handing over"
    YIELDED = "yielded"
    STOPPING = "stopping"


Event = Callable[[], None]


class Daemon(Generic[C]):
    """One process of one daemon."""

    def __init__(self, spec: DaemonSpec[C], load: Callable[[], C], config_file: Path | None = None) -> None:
        """
        Args:
            spec: what to run.
            load: reads the configuration again; raises ConfigError.
            config_file: watched for changes.
        """
        self._spec = spec
        self._load = load
        self._config_file = config_file
        self._config = load()
        self._state_dir = state_dir(self._config, spec.name)
        self._lock = StateLock(self._state_dir)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._state = State.STARTING
        self._life: Life[C] | None = None
        self._control: ControlSocket | None = None
        self._kept: list[PublicSocket] = []  # open descriptors while a successor is not ready yet
        self._registered: list[str] = []
        self._attempt = 0
        self._stop_asked = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code."""
        signals.listen((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self._on_signal)
        with StatusPages(self._config.http_listen, self._readiness):
            self._begin(claim(self._lock, self._state_dir, self._config.grace + self._config.handover_timeout))
            with self._watch_config():
                while self._state is not State.STOPPING:
                    self._events.get()()
                self._end()
        return 0

    def _begin(self, inherited: Inherited) -> None:
        deadline = self._abandon_after(self._config.handover_timeout) if inherited.connection else None
        try:
            life = Life(self._spec, self._config, self._state_dir)
            life.start(inherited)
        except BaseException:
            self._lock.release()  # before the old process learns of it: it wants the lock back at once
            inherited.give_up()
            raise
        self._life = life
        self._control = ControlSocket(self._state_dir, lambda s: self._events.put(lambda: self._yield_to(s)))
        if deadline is not None:
            deadline.cancel()
        inherited.ready()
        self._state = State.SERVING
        memory.settle()
        logger.info("serving", sockets=life.paths())

    def _yield_to(self, successor: Successor) -> None:
        """Finish what is under way, then pass the sockets and the lock."""
        if self._life is None or self._control is None:
            return
        logger.info("handing over to a new process")
        self._state = State.YIELDING
        self._attempt += 1
        self._registered = self._life.registered()
        self._kept = self._life.finish()
        self._life = None
        self._control.close()
        try:
            successor.give(self._kept, self._registered)
        except OSError as error:
            logger.warning("the new process went away before the hand-over", reason=str(error))
            self._take_back(self._attempt)
            return
        self._lock.release()
        number = self._attempt
        successor.watch(
            self._config.handover_timeout,
            lambda ready: self._events.put(lambda: self._yielded(number) if ready else self._take_back(number)),
        )

    def _yielded(self, attempt: int) -> None:
        if self._state is State.YIELDING and attempt == self._attempt:
            for public in self._kept:
                public.close()
            self._kept = []
            self._state = State.YIELDED
            logger.info("the new process is ready; this one waits for SIGTERM and touches nothing")

    def _take_back(self, attempt: int) -> None:
        """The successor did not become ready: serve again on the same sockets."""
        if self._state is not State.YIELDING or attempt != self._attempt:
            return
        logger.error("the new process did not become ready; taking everything back")
        if not self._lock.acquire(self._config.handover_timeout):
            raise ConfigError(
                f"the process that should have taken over never became ready and holds {self._state_dir} still: "
                f"process {self._lock.holder()}; stop it"
            )
        kept = {p.spec.name: (os.dup(p.socket.fileno()), p.spec.path, p.identity) for p in self._kept if p.owned()}
        for public in self._kept:
            public.close()
        self._kept = []
        self._begin(Inherited(kept, frozenset(self._registered)))

    def _abandon_after(self, seconds: float) -> threading.Timer:
        """End this process if it does not become ready: the old one waits for the lock to take everything back."""

        def abandon() -> None:
            logger.error("not ready in time after a hand-over; the old process takes everything back", limit_s=seconds)
            os._exit(1)

        timer = threading.Timer(seconds, abandon)
        timer.daemon = True
        timer.start()
        return timer

    def _end_at_deadline(self) -> None:
        """Whatever hangs: the process ends before the kubelet has to kill it."""

        def cut() -> None:
            logger.error("the stop took longer than stop_deadline; ending now", limit_s=self._config.stop_deadline)
            os._exit(1)

        timer = threading.Timer(self._config.stop_deadline, cut)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._life is not None:
            self._life.stop()
        for public in self._kept:
            public.close()
        self._lock.close()
        logger.info("stopped")

    def _reload(self) -> None:
        if self._life is None:
            return
        try:
            config = self._load()
            self._life.reload(config)  # also when nothing changed: SIGHUP means "read your files again"
        except NodeplugError as error:
            logger.error("the changed configuration was not taken; the old one stays in force", reason=error.message)
            return
        log.setup(config.log_level)
        if config != self._config:
            self._config = config
            logger.info("the changed configuration is in force")

    @contextlib.contextmanager
    def _watch_config(self) -> Iterator[None]:
        """Reload when the file changes; a ConfigMap changes by a symlink beside it, so the target is compared."""
        file = self._config_file
        if file is None:
            yield
            return
        seen = [_stamp(file)]

        def check() -> None:
            stamp = _stamp(file)
            if stamp != seen[0]:
                seen[0] = stamp
                self._events.put(self._reload)

        watch = Presence()
        watch.watch(file.absolute().parent, check)
        watch.start()
        try:
            yield
        finally:
            watch.stop()

    def _readiness(self) -> tuple[bool, dict[str, object]]:
        life = self._life
        pending = life.pending() if life is not None else []
        ready = self._state is State.SERVING and not pending
        return ready, {"state": self._state.value, "waiting_for_registration": pending}

    def _on_signal(self, number: int) -> None:
        """SIGHUP reloads; SIGTERM and SIGINT stop. Runs in the thread of `signals`."""
        if number == signal.SIGHUP:
            self._events.put(self._reload)
            return
        if self._stop_asked or self._state is State.STARTING:
            # Asked twice, or nobody is served yet. Everything survives a kill at any instruction, so this is safe,
            # and a process that waits for its predecessor hears of it at once.
            os._exit(128 + number)
        self._stop_asked = True
        self._end_at_deadline()
        self._events.put(self._stop)

    def _stop(self) -> None:
        self._state = State.STOPPING


def _stamp(file: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        found = file.stat()
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None
