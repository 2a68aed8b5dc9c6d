"""What a demo did: progress while it works, a table or JSON at the end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plugins.core.errors import NodeplugError
from plugins.lab.errors import LabError

_WIDTH = 110  # of the table where there is no terminal to ask
_LINE = 400  # characters of one log line that are shown
_COLOURS = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


class StepFailed(Exception):
    """A step did not succeed. part: whose daemon's log tells more."""

    def __init__(self, part: str, step: str, why: str) -> None:
        super().__init__(f"{part}: {step}: {why}")
        self.part = part
        self.step = step
        self.why = why


@dataclass
class Step:
    """One line of the report. seconds: how long it took; facts: what a program may want to know of it."""

    part: str
    name: str
    status: str = "ok"
    result: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Report:
    """The steps in order. Progress goes to standard error, the result to standard output."""

    def __init__(self, *, colour: bool = True) -> None:
        """colour: False turns it off; NO_COLOR does the same."""
        self.steps: list[Step] = []
        self._began = time.monotonic()
        self._progress = Console(stderr=True, no_color=not colour or None, highlight=False)
        self._result = Console(no_color=not colour or None, highlight=False)
        if not self._result.is_terminal:
            self._result = Console(no_color=not colour or None, highlight=False, width=_WIDTH)

    @contextlib.contextmanager
    def step(self, part: str, name: str) -> Iterator[Step]:
        """One step; the block sets its result.

        Raises:
            StepFailed: the block raised an error.
        """
        step, began = Step(part, name), time.monotonic()
        try:
            with self._progress.status(f"{part}: {name}"):
                yield step
        except (LabError, NodeplugError, OSError, ValueError, AssertionError) as error:
            step.status, step.result = "failed", str(error)
            raise StepFailed(part, name, str(error)) from error
        finally:
            step.seconds = time.monotonic() - began
            if step.result or step.status == "failed":  # an interrupted step has no result
                self._add(step)

    def skip(self, part: str, why: str) -> None:
        """A part that cannot run here."""
        self._add(Step(part, "not run", "skipped", why))

    def say(self, *lines: str) -> None:
        """Something for the person, beside the steps."""
        for line in lines:
            self._progress.print(Text(line), soft_wrap=True)

    def table(self) -> None:
        """Everything at a glance."""
        table = Table(
            box=box.SIMPLE_HEAD, title="nodeplug demo", title_justify="left", title_style="bold", pad_edge=False
        )
        table.add_column("part", no_wrap=True)
        table.add_column("step", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("result", overflow="fold")
        table.add_column("time", justify="right", no_wrap=True)
        part = ""
        for step in self.steps:
            shown = "" if step.part == part else step.part
            table.add_row(shown, step.name, _mark(step), Text(step.result), _duration(step))
            part = step.part
        table.add_section()
        table.add_row("", "", "", "", _seconds(self.elapsed))
        self._result.print(table)

    def json(self, *, ok: bool) -> None:
        """The same for a program."""
        steps = [
            {
                "part": s.part,
                "step": s.name,
                "status": s.status,
                "result": s.result,
                "seconds": round(s.seconds, 4),
                **({"facts": s.facts} if s.facts else {}),
            }
            for s in self.steps
        ]
        print(json.dumps({"ok": ok, "seconds": round(self.elapsed, 3), "steps": steps}, indent=2))

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        line = Text.assemble(f"{step.part:<8} ", _mark(step), f" {step.name}: {step.result}")
        line.append(f"  {_duration(step)}", style="dim")
        self._progress.print(line, soft_wrap=True)


def _mark(step: Step) -> Text:
    return Text(step.status, style=_COLOURS[step.status])


def _duration(step: Step) -> str:
    return "" if step.status == "skipped" else _seconds(step.seconds)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def human(size: int) -> str:
    """A size for reading: "12.3 MiB"."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def brief(line: str) -> str:
    """A line of a daemon's log for reading: JSON without its braces, nothing longer than a few lines."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line[:_LINE]
    if not isinstance(entry, dict):
        return line[:_LINE]
    head = f"{entry.pop('time', '')} {entry.pop('level', '')} {entry.pop('logger', '')}: {entry.pop('message', '')}"
    return f"{head} {' '.join(f'{key}={value}' for key, value in entry.items())}"[:_LINE]
