"""Devices whose node is not usable yet, and when to look again.

Where /dev is not a devtmpfs the node is made a little after the kernel's event, and nobody tells. So the device is
looked at again: after 10 ms, then at growing distances, for as long as it is announced without a usable node.
"""

from __future__ import annotations

from collections.abc import Mapping

from plugins.device.hardware import Device

_DELAY = (0.01, 30.0)  # seconds: first and longest


class Pending:
    """The set of such devices with one common back-off, which starts anew when a device joins."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._delay = _DELAY[0]
        self._due = 0.0

    def update(self, devices: Mapping[str, Device | None], now: float) -> None:
        """These were just read (None: gone).

        Args:
            now: monotonic seconds.
        """
        for path, device in devices.items():
            if device is None or not device.problem:
                self._paths.discard(path)
            elif path not in self._paths:
                self._paths.add(path)
                self._delay = _DELAY[0]
                self._due = now + self._delay

    def due_in(self, now: float) -> float | None:
        """Seconds until the next look; None if nothing is pending."""
        return max(0.0, self._due - now) if self._paths else None

    def take_due(self, now: float) -> list[str]:
        """The paths to look at now; the next look is put off further."""
        if not self._paths or now < self._due:
            return []
        self._delay = min(self._delay * 2, _DELAY[1])
        self._due = now + self._delay
        return sorted(self._paths)
