"""What Status told each caller, so that its next Encrypt agrees.

The API server asks Status, and where the key_id is new calls Encrypt and compares: a rotation between the two would
fail its probe and cost it ten seconds of retry. So Encrypt follows what Status last announced to that caller. A
look from elsewhere (`nodeplug kms status`, a probe) carries the metadata key OBSERVE and announces nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

OBSERVE = "nodeplug-observe"
"""Metadata key, any value: this Status call is only a look."""
GENERATION = "nodeplug-generation"
"""Trailing metadata of the answer to a look: generation of the keyring in force, to see where a new one has arrived."""

_CALLERS = 256  # connections remembered; an API server has one or, while it reloads its configuration, two


class Announcements:
    """The last announced key_id per caller, and over all of them for callers not seen before."""

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a dictionary operation only
        self._by_caller: OrderedDict[str, str] = OrderedDict()
        self._last: str | None = None

    def announce(self, caller: str, key_id: str) -> bool:
        """
        Args:
            caller: what tells connections apart, where the transport does; otherwise the same text for all.

        Returns:
            Whether this is news to the caller.
        """
        with self._guard:
            news = self._by_caller.get(caller) != key_id
            self._last = key_id
            self._by_caller[caller] = key_id
            self._by_caller.move_to_end(caller)
            if len(self._by_caller) > _CALLERS:
                self._by_caller.popitem(last=False)
            return news

    def announced(self, caller: str) -> str | None:
        """What this caller was told last; if it never asked (it connected anew), what anyone was told last."""
        with self._guard:
            return self._by_caller.get(caller, self._last)
