"""What happened, with the wall clock, and a way to wait for it.

Every part of the lab writes here, so that a test asserts on what the caller saw ("0 unregister events") and waits on a
condition variable, never by sleeping.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plugins.lab.errors import Timeout


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    time: wall clock, seconds since the epoch.
    kind: such as "register" or "capacity".
    subject: what it happened to: a plugin, a resource, a provider.
    """

    time: float
    kind: str
    subject: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class Journal:
    """A list of events that only grows. Safe for any thread; listeners are called in the thread that records."""

    def __init__(self, listener: Callable[[Event], None] | None = None) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._listener = listener

    def record(self, kind: str, subject: str, **fields: Any) -> Event:
        """Write an event and wake everybody who waits."""
        event = Event(time.time(), kind, subject, fields)
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
        if self._listener:
            self._listener(event)
        return event

    def mark(self) -> int:
        """The number of events so far: `since` for those that come after this moment."""
        with self._changed:
            return len(self._events)

    def events(self, kind: str | None = None, subject: str | None = None, *, since: int = 0) -> list[Event]:
        """The events of a kind, of a subject, or all, in order."""
        with self._changed:
            return [e for e in self._events[since:] if _fits(e, kind, subject)]

    def wait(
        self,
        kind: str,
        subject: str | None = None,
        *,
        since: int = 0,
        timeout: float,
        match: Callable[[Event], bool] = lambda event: True,
    ) -> Event:
        """The first such event after `since`, waiting for it for at most timeout seconds.

        Raises:
            Timeout: names what was waited for and what happened instead.
        """
        found: list[Event] = []

        def happened() -> bool:
            found[:] = [e for e in self.events(kind, subject, since=since) if match(e)][:1]
            return bool(found)

        self.until(happened, timeout=timeout, what=f"{kind} {subject or ''}".strip(), since=since)
        return found[0]

    def until(self, true: Callable[[], bool], *, timeout: float, what: str, since: int = 0) -> None:
        """Wait until `true()` holds; it is asked again after every event.

        It is asked without holding our lock: it may look into parts that write here while they hold theirs.

        Raises:
            Timeout: it never held.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen = self.mark()
            if true():
                return
            if not self._more_than(seen, deadline):
                break
        if true():
            return
        tail = ", ".join(f"{e.kind} {e.subject}" for e in self.events(since=since)[-8:]) or "nothing"
        raise Timeout(f"waited {timeout:g} s for {what}; what happened: {tail}")

    def _more_than(self, seen: int, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._events) > seen, deadline - time.monotonic())


def _fits(event: Event, kind: str | None, subject: str | None) -> bool:
    return (kind is None or event.kind == kind) and (subject is None or event.subject == subject)
