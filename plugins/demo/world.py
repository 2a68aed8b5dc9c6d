"""What the parts of the demo share: the folder, the embedded kubelet, the processes, the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plugins.core import command
from plugins.demo.interrupts import Interrupts
from plugins.demo.report import Report
from plugins.lab.kubelet import Kubelet
from plugins.lab.processes import Process, Supervisor

T = TypeVar("T")

READY = 30.0  # seconds for a daemon to serve, and for the kubelet to have it
_TOOL = 30.0  # seconds for a command for people


@dataclass(frozen=True)
class World:
    """root: of everything in this run; the kubelet's folder and each daemon's lie below it."""

    root: Path
    report: Report
    interrupts: Interrupts
    kubelet: Kubelet
    supervisor: Supervisor

    def start(self, process: Process) -> None:
        """Start a daemon such that an interruption cannot lose it."""
        with self.interrupts.held():
            process.start()

    def wait(self, process: Process, found: Callable[[], T | None]) -> T:
        """Wait until `found` returns something; an end of the process ends it at once.

        Raises:
            ProcessFailed: it ended instead.
            Timeout: nothing came of it.
        """

        def decided() -> bool:
            return found() is not None or process.exit_code() is not None

        self.kubelet.journal.until(decided, timeout=READY, what=f"{process.name} to be registered")
        result = found()
        if result is None:
            process.check()
        assert result is not None
        return result

    def tool(self, *arguments: str) -> str:
        """A command of nodeplug for people, as a process; returns what it printed.

        Raises:
            CommandFailed: with what it complained about.
        """
        argv = [*self.supervisor.command, *arguments]
        return command.run(argv, timeout=_TOOL, env=self.supervisor.environment()).text
