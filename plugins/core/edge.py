"""The one interceptor: every call gets an id, a deadline-free timer, a log line, metrics, and a status from its error.

Handlers are wrapped once per method and kept: a call then costs one dictionary look-up more than a bare one.
Streaming handlers are given a thread pool of their own, so that open streams never take the workers of unary calls.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from plugins.core import log, metrics, redact
from plugins.core.acceptor import uid_of
from plugins.core.errors import Code, NodeplugError, Unimplemented

logger = log.get("rpc")

_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_HEALTH = "/grpc.health.v1."

_calls = metrics.counter("rpc_calls_total", "Finished calls by method and status code.", ("method", "code"))
_seconds = metrics.histogram("rpc_seconds", "Duration of calls in seconds.", ("method",))

Handler = Any  # grpc.RpcMethodHandler; the stubs know its fields only partly


class Edge(grpc.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(self, streams: ThreadPoolExecutor, quiet: frozenset[str] = frozenset()) -> None:
        """
        Args:
            streams: where server-streaming handlers run.
            quiet: method names (last part) whose success is logged at debug level only.
        """
        self._streams = streams
        self._quiet = quiet
        self._wrapped: dict[str, Handler] = {}
        # Unique over restarts and cheap: a random start per process, then counted.
        self._ids = itertools.count(int.from_bytes(os.urandom(5), "big") << 20)

    def intercept_service(self, continuation: Callable[[Any], Handler], details: Any) -> Handler:
        """The handler of this call, wrapped."""
        method: str = details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = continuation(details)
            if handler is None or method.startswith(_HEALTH):
                return handler  # unknown method: grpc answers; health: probes, and its Watch needs no thread
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        call = _Call(method, logging.DEBUG if method.rpartition("/")[2] in self._quiet else logging.INFO, self._ids)
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(call.unary(handler.unary_unary), **codecs)
        if handler.unary_stream:
            behavior = call.streaming(handler.unary_stream)
            behavior.experimental_thread_pool = self._streams  # type: ignore[attr-defined]
            return grpc.unary_stream_rpc_method_handler(behavior, **codecs)
        return handler  # none of our contracts streams requests


class _Call:
    """What surrounds one method's calls."""

    def __init__(self, method: str, level: int, ids: Iterator[int]) -> None:
        self._method = method.rpartition(".")[2]
        self._level = level
        self._ids = ids

    def unary(self, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """A unary handler with id, log, metrics and error translation."""

        def behavior(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            log.request_id.set(f"{next(self._ids):x}")  # each worker thread sets its own before each call
            try:
                response = inner(request, context)
            except Exception as error:  # noqa: BLE001 - the one place where every error becomes a status
                self._failed(error, request, context, started)
            self._done(request, context, started)
            return response

        return behavior

    def streaming(self, inner: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
        """A server-streaming handler with the same; it is done when its stream ends."""

        def behavior(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            started = time.perf_counter()
            log.request_id.set(f"{next(self._ids):x}")
            try:
                yield from inner(request, context)
            except Exception as error:  # noqa: BLE001 - the one place where every error becomes a status
                self._failed(error, request, context, started)
            self._done(request, context, started)

        return behavior

    def _done(self, request: Any, context: grpc.ServicerContext, started: float) -> None:
        elapsed = time.perf_counter() - started
        _calls.inc(method=self._method, code="OK")
        _seconds.observe(elapsed, method=self._method)
        if logger.enabled(self._level):
            self._write(self._level, request, context, "OK", elapsed)

    def _failed(self, error: Exception, request: Any, context: grpc.ServicerContext, started: float) -> NoReturn:
        elapsed = time.perf_counter() - started
        if isinstance(error, NotImplementedError):  # what a generated base class raises for a method left out
            error = Unimplemented(f"{self._method} is not served by this daemon")
        if isinstance(error, NodeplugError):
            code, message = error.code, error.message
            self._write(logging.WARNING, request, context, code.name, elapsed, reason=message, **_detail(error))
        else:
            # What a bug says may hold anything, a secret too: the caller gets the id, the log has the rest.
            code = Code.INTERNAL
            message = f"internal error; the log of the daemon has it as request {log.request_id.get()}"
            logger.error("a call failed by a defect of this daemon", exc=error, method=self._method)
        _calls.inc(method=self._method, code=code.name)
        _seconds.observe(elapsed, method=self._method)
        context.abort(_STATUS[int(code)], message)

    def _write(
        self, level: int, request: Any, context: grpc.ServicerContext, code: str, elapsed: float, **more: object
    ) -> None:
        facts = {
            "method": self._method,
            "code": code,
            "ms": round(elapsed * 1000, 3),
            "uid": uid_of(context.peer()),
            "args": redact.fields(request),
        }
        logger.write(level, "call", facts | more)


def _detail(error: NodeplugError) -> dict[str, object]:
    return {"detail": error.detail} if error.detail else {}
