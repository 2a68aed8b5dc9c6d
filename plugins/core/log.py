"""JSON lines on standard error: one object a line, safe for any collector.

    logger = log.get("csi.volumes")
    logger.info("volume created", volume_id=volume_id, size_bytes=size)

Fields are the caller's keywords; `request` is the id of the call under way. No secret, plaintext or key is ever a
field: requests are logged through `redact` only.
"""

from __future__ import annotations

import contextvars
import functools
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

ROOT = "nodeplug"
LEVELS = ("debug", "info", "warning", "error")

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the call that this thread serves; empty outside of calls."""


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object: time (RFC 3339, UTC), level, logger, message, request, fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(ROOT + "."),
            "message": record.getMessage(),
        }
        request = request_id.get()
        if request:
            entry["request"] = request
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return _encode(entry)


_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode  # made once: json.dumps would make one for each line


@functools.lru_cache(maxsize=4)
def _second(moment: int) -> str:
    """A whole second since the epoch in RFC 3339, without zone; most lines share it with the one before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


class Logger:
    """A thin face on a standard logger that takes fields as keywords."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")

    def enabled(self, level: int) -> bool:
        """Whether a line of that level would be written: for lines that are costly to prepare."""
        return self._logger.isEnabledFor(level)

    def debug(self, message: str, **fields: object) -> None:
        """For a person who searches a fault."""
        self.write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Something changed."""
        self.write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Something is wrong, and the daemon goes on."""
        self.write(logging.WARNING, message, fields)

    def error(self, message: str, *, exc: BaseException | None = None, **fields: object) -> None:
        """Something failed; exc adds its traceback."""
        self.write(logging.ERROR, message, fields, exc)

    def write(self, level: int, message: str, fields: Mapping[str, object], exc: BaseException | None = None) -> None:
        """A line of any level (logging.INFO ...)."""
        if self._logger.isEnabledFor(level):
            error = (type(exc), exc, exc.__traceback__) if exc else None
            # Made here, not by Logger.log: that would walk the stack for a file and a line which nothing shows.
            record = self._logger.makeRecord(
                self._logger.name, level, "", 0, message, (), error, extra={"fields": fields}
            )
            self._logger.handle(record)


def get(name: str) -> Logger:
    """The logger of one part, by its dotted name ("csi.staging")."""
    return Logger(name)


def setup(level: str = "info", stream: IO[str] | None = None) -> None:
    """Send every line to stream (standard error) as JSON. May be called again: the last call counts."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    # What no line shows need not be looked up (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
