"""Ctrl-C, SIGTERM and SIGHUP, as an exception at a moment when everything that was made is known to the clean-up.

A signal raises only inside `allowed()`; anywhere else, above all during clean-up, it waits. So nothing that was just
made (a folder, a process) can get lost between its making and its registration, and no clean-up is cut short.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The person, or the system, wants an end. Not an Exception: no handler of errors may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """Takes the signals over for the duration of a block. Main thread only."""

    def __init__(self) -> None:
        self._allowed = False
        self._pending = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """A signal ends this block by Interrupted; one that came before does so at once."""
        self._allowed = True
        try:
            self._raise_pending()
            yield
        finally:
            self._allowed = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside an allowed block: let nothing interrupt these lines; what comes meanwhile counts at their end."""
        before, self._allowed = self._allowed, False
        try:
            yield
        finally:
            self._allowed = before
        if before:
            self._raise_pending()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._pending = self._pending or number
        if self._allowed:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending:
            self._allowed = False
            raise Interrupted(self._pending)
