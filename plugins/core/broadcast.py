"""One value, many listeners, and only the newest counts.

A ListAndWatch stream needs the current list, not each list in between: a slow subscriber skips to the newest
value instead of holding back the others or growing a queue. Each subscriber sees every *latest* state, also when
two streams of the same kubelet are open at a time (as after its restart).
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The broadcast was closed: end the stream."""


class Broadcast(Generic[T]):
    """The current value with its version number, and a way to wait for the next one."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 1
        self._closed = False
        self._changed = threading.Condition()

    def publish(self, value: T) -> int:
        """Make value the current one; returns its version. After close() nothing changes any more."""
        with self._changed:
            if not self._closed:
                self._value = value
                self._version += 1
                self._changed.notify_all()
            return self._version

    def current(self) -> T:
        """The newest value."""
        with self._changed:
            return self._value

    def close(self) -> None:
        """End every subscription, those to come too."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def subscribe(self) -> Subscription[T]:
        """A subscription whose first next() returns the current value at once."""
        return Subscription(self)


class Subscription(Generic[T]):
    """The place of one listener. next() belongs to one thread; cancel() may be called from any."""

    def __init__(self, source: Broadcast[T]) -> None:
        self._source = source
        self._seen = 0
        self._cancelled = False

    def next(self, timeout: float | None = None) -> T | None:
        """Wait until there is a value newer than the last one returned.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            The newest value, or None when the time is over.

        Raises:
            Closed: the broadcast was closed or this subscription cancelled.
        """
        source = self._source
        with source._changed:
            source._changed.wait_for(self._due, timeout)
            if source._closed or self._cancelled:
                raise Closed
            if source._version == self._seen:
                return None
            self._seen = source._version
            return source._value

    def cancel(self) -> None:
        """Wake the waiting thread and end the subscription (the client went away)."""
        with self._source._changed:
            self._cancelled = True
            self._source._changed.notify_all()

    def _due(self) -> bool:
        return self._source._closed or self._cancelled or self._source._version != self._seen
