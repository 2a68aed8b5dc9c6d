"""One operation per key at a time; a second one is refused at once and never queues.

The callers (kubelet, sidecars) retry with back-off by themselves. A waiting call would hold a worker thread for
nothing, and a queue outlives the callers that gave up. CSI specification, "Concurrency": ABORTED.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from plugins.core.errors import Aborted


class KeyedLocks:
    """A set of held keys. There is no lock object per key, so nothing grows with the number of keys seen."""

    def __init__(self, kind: str) -> None:
        """kind: what a key names ("volume", "claim"); it appears in the error."""
        self._kind = kind
        self._held: set[str] = set()
        self._guard = threading.Lock()  # held for a set look-up only, never during an operation

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        """Hold all keys or none for the duration of the block.

        Raises:
            Aborted: one of them is held by an operation under way.
        """
        wanted = set(keys)
        with self._guard:
            busy = wanted & self._held
            if busy:
                raise Aborted(
                    f"an operation on {self._kind} {min(busy)!r} is already under way; retry when it has ended"
                )
            self._held |= wanted
        try:
            yield
        finally:
            with self._guard:
                self._held -= wanted

    def held(self) -> frozenset[str]:
        """The keys held at this moment."""
        with self._guard:
            return frozenset(self._held)
