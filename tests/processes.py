"""A daemon as a process of a test: its log lines, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from inotify_simple import INotify, flags

ROOT = Path(__file__).parents[1]


class Process:
    """A process that writes JSON lines to standard error, which goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        with log.open("wb") as output:
            self.popen = subprocess.Popen(list(command), stderr=output, env=environ)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_for(self, message: str, timeout: float = 20.0) -> dict[str, Any]:
        """The first log line with that message; fails when the process ends or the time is over before it comes."""
        with INotify() as watch:
            watch.add_watch(self.log, flags.MODIFY)
            for _ in range(int(timeout * 10)):
                for line in self.lines():
                    if line["message"] == message:
                        return line
                assert self.popen.poll() is None or message in self.text(), self.text()
                watch.read(timeout=100)
        raise AssertionError(f"no line {message!r} within {timeout} s:\n{self.text()}")

    def serving(self) -> Self:
        """Wait until it serves."""
        self.wait_for("serving")
        return self

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines(keepends=True) if line.endswith("}\n")]

    def text(self) -> str:
        return self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; returns the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(30)

    def kill(self) -> None:
        """End it whatever it does; nothing is left behind."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
