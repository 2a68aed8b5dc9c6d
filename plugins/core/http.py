"""/healthz, /readyz and /metrics over HTTP, where an address is configured; no listener otherwise.

Liveness says only that the process handles requests: it never depends on the kubelet, a key service or a disk.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from plugins.core import log
from plugins.core.errors import ConfigError

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

logger = log.get("http")

Readiness = Callable[[], tuple[bool, dict[str, object]]]


class StatusPages:
    """A context: the pages are served inside it. With an empty address it does nothing and imports nothing."""

    def __init__(self, listen: str, readiness: Readiness) -> None:
        """
        Args:
            listen: "host:port", or "".
            readiness: whether the daemon is ready, and the facts behind that.
        """
        self._listen = listen
        self._readiness = readiness
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> StatusPages:
        """Start to serve. Raises ConfigError where the address cannot be bound."""
        if self._listen:
            from http.server import ThreadingHTTPServer

            from plugins.core import metrics

            metrics.enable()
            host, _, port = self._listen.rpartition(":")
            try:
                self._server = ThreadingHTTPServer((host, int(port)), _handler(self._readiness))
            except OSError as error:
                raise ConfigError(f"http_listen {self._listen!r} cannot be bound: {error.strerror}") from error
            threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return self

    @property
    def port(self) -> int:
        """The port that is served (for an address with port 0); 0 without a listener."""
        return int(self._server.server_address[1]) if self._server else 0

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to serve."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _handler(readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    from http.server import BaseHTTPRequestHandler

    from plugins.core import metrics

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a client to send its request

        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._answer(200, b"ok\n", "text/plain")
            elif self.path == "/readyz":
                ready, facts = readiness()
                self._answer(200 if ready else 503, json.dumps(facts).encode() + b"\n", "application/json")
            elif self.path == "/metrics":
                self._answer(200, *metrics.exposition())
            else:
                self._answer(404, b"not found; there are /healthz, /readyz and /metrics\n", "text/plain")

        def log_message(self, format: str, *args: Any) -> None:
            logger.debug("request", line=format % args)

        def _answer(self, code: int, body: bytes, content_type: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
