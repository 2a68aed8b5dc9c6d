"""Daemons as processes of their own: started, found ready, killed, stopped, and never left behind.

with Supervisor(folder / "logs") as supervisor:
    csi = supervisor.daemon("csi", kubelet_dir=root, state_dir=folder / "csi")
    csi.start()
    csi.wait_serving(socket, timeout=10)
    csi.kill()                      # SIGKILL, as power loss would
    csi.start()
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import plugins
from plugins.lab.channels import LOCALHOST
from plugins.lab.errors import LabError, Timeout
from plugins.lab.journal import Journal

_SERVING = health_pb2.HealthCheckResponse.SERVING
_QUICK = [
    ("grpc.default_authority", LOCALHOST),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),  # the socket appears at any moment: look again soon
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
]


class ProcessFailed(LabError):
    """A daemon ended by itself, or did not become ready."""


class Process:
    """One program that may be started again and again; its output is kept in one file."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str], journal: Journal | None = None
    ) -> None:
        """journal: gets an event "started" and "ended", so that whoever waits for something else hears of an end."""
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self._env = dict(env)
        self._journal = journal or Journal()
        self._running: subprocess.Popen[bytes] | None = None
        self._at_end: list[Callable[[], object]] = []
        self._guard = threading.Lock()

    @property
    def pid(self) -> int:
        """Of the process that was started last.

        Raises:
            LabError: there is none.
        """
        if self._running is None:
            raise LabError(f"{self.name} was not started")
        return self._running.pid

    def start(self) -> None:
        """Start it, in a session of its own: a ctrl-C in the terminal is for us, and we stop it in our order."""
        if self._running is not None and self._running.poll() is None:
            raise LabError(f"{self.name} is running already as process {self.pid}")
        with self.log.open("ab") as output:
            running = self._running = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                start_new_session=True,
            )
        self._journal.record("started", self.name, pid=running.pid)
        threading.Thread(target=self._reap, args=(running,), name=f"end of {self.name}", daemon=True).start()

    def wait_serving(self, socket: Path, *, timeout: float) -> None:
        """Wait until grpc.health.v1 on a socket says SERVING.

        Raises:
            ProcessFailed: it ended instead, with what it logged last.
            Timeout: it is neither ready nor gone.
        """
        with grpc.insecure_channel(f"unix:{socket}", options=_QUICK) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch  # type: ignore[attr-defined] # made at run time
            call = watch(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)
            with self._at_exit(call.cancel), contextlib.suppress(grpc.RpcError):  # cancelled, or out of time
                if any(answer.status == _SERVING for answer in call):
                    call.cancel()
                    return
        self.check()
        raise Timeout(f"{self.name} did not serve {socket} within {timeout:g} s; last: {' | '.join(self.errors())}")

    def check(self) -> None:
        """Nothing, while it runs.

        Raises:
            ProcessFailed: it has ended; says how, and what it logged last.
        """
        if (code := self.exit_code()) is not None:
            raise ProcessFailed(f"{self.name} ended with exit code {code}: {' | '.join(self.errors()) or 'no output'}")

    def exit_code(self) -> int | None:
        """Of a process that has ended; negative: by that signal. None: it runs, or was never started."""
        return None if self._running is None else self._running.poll()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._signal(signal.SIGKILL)
        if self._running is not None:
            self._running.wait()

    def stop(self, *, timeout: float = 30.0) -> int | None:
        """SIGTERM, and SIGKILL if that is not enough; returns the exit code, None if it never ran."""
        self.terminate()
        return self.join(timeout=timeout)

    def terminate(self) -> None:
        """SIGTERM, without waiting. Once only: a daemon that is asked twice ends at once."""
        self._signal(signal.SIGTERM)

    def join(self, *, timeout: float = 30.0) -> int | None:
        """Wait for the end, and make it with SIGKILL when the time is over; returns the exit code."""
        if self._running is None:
            return None
        try:
            return self._running.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._running.returncode

    def errors(self, count: int = 5) -> list[str]:
        """The last lines of the log that tell of trouble; where none does, the last lines."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        bad = [line for line in lines if _level(line) in ("error", "warning", "")]
        return (bad or lines)[-count:]

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(number)

    def _reap(self, running: subprocess.Popen[bytes]) -> None:
        code = running.wait()
        with self._guard:
            acts = list(self._at_end)
        for act in acts:
            act()
        self._journal.record("ended", self.name, pid=running.pid, code=code)

    @contextlib.contextmanager
    def _at_exit(self, act: Callable[[], object]) -> Iterator[None]:
        """Call `act` if the process ends while the block runs, or has ended before."""
        with self._guard:
            self._at_end.append(act)
        try:
            if self.exit_code() is not None:
                act()
            yield
        finally:
            with self._guard:
                self._at_end.remove(act)


class Supervisor:
    """Processes that end with the block, the last one started first."""

    command = (sys.executable, "-m", "plugins")
    """What stands for `nodeplug`."""

    def __init__(self, logs: Path, *, path: Path | None = None, journal: Journal | None = None) -> None:
        """
        Args:
            logs: folder for one log file per process.
            path: what `python -m plugins` is imported from; None: the package that runs this.
            journal: for the events "started" and "ended".
        """
        self._logs = logs
        self._path = path or Path(plugins.__path__[0]).parent
        self._journal = journal or Journal()
        self.processes: list[Process] = []

    def __enter__(self) -> Supervisor:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def daemon(
        self,
        name: str,
        *,
        kubelet_dir: Path,
        state_dir: Path,
        socket: Path | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        label: str = "",
    ) -> Process:
        """`nodeplug <name> serve` with these folders; not started yet.

        Args:
            settings: for --set, "key=value" each.
            label: tells two daemons of a kind apart, in log names too.
        """
        argv = [*self.command, name, "serve", "--kubelet-dir", str(kubelet_dir)]
        argv += ["--state-dir", str(state_dir)]
        argv += ["--socket", str(socket)] if socket else []
        argv += ["--config", str(config)] if config else []
        for setting in settings:
            argv += ["--set", setting]
        return self.process(label or name, argv)

    def process(self, name: str, argv: Sequence[str]) -> Process:
        """Any program; not started yet."""
        made = Process(name, argv, self._logs / f"{name}.log", self.environment(), self._journal)
        self.processes.append(made)
        return made

    def stop(self) -> None:
        """End all of them. May be repeated."""
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            process.join()

    def environment(self) -> dict[str, str]:
        """For every process: ours, without settings that a person made for daemons of their own."""
        own = ("NODEPLUG_CSI_", "NODEPLUG_DEVICE_", "NODEPLUG_KMS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        found = [str(self._path), *filter(None, [kept.get("PYTHONPATH")])]
        return {**kept, "PYTHONPATH": os.pathsep.join(found)}


def _level(line: str) -> str:
    """The level of a JSON log line; "" for anything else, such as a traceback or a usage error."""
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    return str(entry.get("level", "")) if isinstance(entry, dict) else ""
