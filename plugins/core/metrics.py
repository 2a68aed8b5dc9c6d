"""Counters that cost nothing until somebody asks for them.

Parts declare their metrics at import; `enable()` (when http_listen is configured) binds them to prometheus-client,
which costs about 3 MiB. Without it every call here is a no-op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

Kind = Literal["Counter", "Gauge", "Histogram"]
_PREFIX = "nodeplug_"

_declared: list[Metric] = []
_enabled = False


class Metric:
    """One metric, or one of its children with labels."""

    def __init__(self, kind: Kind, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._kind = kind
        self._name = _PREFIX + name
        self._help = help_text
        self._labels = tuple(labels)
        self._real: Any = None
        self._sources: dict[tuple[str, ...], Callable[[], float]] = {}
        _declared.append(self)
        if _enabled:
            self.bind()

    def bind(self) -> None:
        """Make the real metric in prometheus-client's registry."""
        import prometheus_client

        self._real = getattr(prometheus_client, self._kind)(self._name, self._help, self._labels)
        for values, source in self._sources.items():
            self._attach(values, source)

    def inc(self, amount: float = 1.0, **labels: str) -> None:
        """Counter or gauge: add."""
        if self._real is not None:
            (self._real.labels(**labels) if labels else self._real).inc(amount)

    def set(self, value: float, **labels: str) -> None:
        """Gauge: the current value."""
        if self._real is not None:
            (self._real.labels(**labels) if labels else self._real).set(value)

    def follow(self, source: Callable[[], float], **labels: str) -> None:
        """Gauge: ask for the value whenever somebody reads the metrics; a later source takes an earlier one's place."""
        values = tuple(labels[name] for name in self._labels)
        self._sources[values] = source
        if self._real is not None:
            self._attach(values, source)

    def _attach(self, values: tuple[str, ...], source: Callable[[], float]) -> None:
        (self._real.labels(*values) if values else self._real).set_function(source)

    def observe(self, value: float, **labels: str) -> None:
        """Histogram: one more value (seconds, bytes)."""
        if self._real is not None:
            (self._real.labels(**labels) if labels else self._real).observe(value)


def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Metric:
    """A number that only grows; name without prefix, ending in _total."""
    return Metric("Counter", name, help_text, labels)


def gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Metric:
    """A number that goes up and down."""
    return Metric("Gauge", name, help_text, labels)


def histogram(name: str, help_text: str, labels: Sequence[str] = ()) -> Metric:
    """How values are distributed; name ends in its unit (_seconds, _bytes)."""
    return Metric("Histogram", name, help_text, labels)


def enable() -> None:
    """Bind every declared metric, and those declared later."""
    global _enabled
    if not _enabled:
        _enabled = True
        for metric in _declared:
            metric.bind()


def exposition() -> tuple[bytes, str]:
    """All metrics in the text format, and its content type."""
    import prometheus_client

    return prometheus_client.generate_latest(), prometheus_client.CONTENT_TYPE_LATEST
