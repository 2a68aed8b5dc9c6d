"""The only place that makes a gRPC server.

grpcio's synchronous server with threads on demand: asyncio handlers that are cancelled let go of their locks while
the work goes on in a thread (measured: three mkfs at a time on one volume). It listens on a private socket only; the
acceptor in front of it owns the public ones.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before the import: our children exec at once

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from plugins.core import log
from plugins.core.edge import Edge
from plugins.core.errors import Internal
from plugins.core.plugin import Server

logger = log.get("server")

_MAX_STREAMS = 64  # open server streams per server; the kubelet opens one or two
# Clients obey the stream limit, and only one that does not ever meets the higher limit of the acceptor.
_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", 512))


class RunningServer:
    """One gRPC server on a private socket, with health beside its services."""

    def __init__(self, spec: Server, backend: str, quiet: frozenset[str]) -> None:
        """
        Args:
            spec: services and number of worker threads.
            backend: path of the private socket.
            quiet: methods whose success is logged at debug level only.

        Raises:
            Internal: the private socket cannot be bound.
        """
        self.spec = spec
        self.backend = backend
        self._streams = ThreadPoolExecutor(_MAX_STREAMS, thread_name_prefix=f"{spec.name} stream")
        self._workers = ThreadPoolExecutor(spec.workers, thread_name_prefix=spec.name)
        self._server = grpc.server(self._workers, interceptors=[Edge(self._streams, quiet)], options=_OPTIONS)
        self._health = health.HealthServicer(experimental_non_blocking=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for add in spec.services:
            add(self._server)
        try:
            self._server.add_insecure_port(f"unix:{backend}")
        except RuntimeError as error:
            raise Internal(f"the private socket of {spec.name} cannot be bound", detail=str(error)) from error

    def start(self) -> None:
        """Serve, and say so to health checks."""
        self._server.start()
        self.serving(True)

    def serving(self, yes: bool) -> None:
        """What grpc.health.v1 answers."""
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        self._health.set("", status)

    def stop(self, grace: float) -> None:
        """Refuse new calls, wait up to grace seconds for those under way, then cut them."""
        self._health.enter_graceful_shutdown()
        if not self._server.stop(grace).wait(grace + 1):
            logger.warning("calls were cut at the end of the grace period", server=self.spec.name, grace_s=grace)
        self._workers.shutdown(wait=False)
        self._streams.shutdown(wait=False)
