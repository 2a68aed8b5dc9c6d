"""`nodeplug probe SOCKET`: asks grpc.health.v1 once, for exec probes. Exit code 0 means SERVING."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Ask the daemon behind a Unix socket; prints its answer."""
    parser = argparse.ArgumentParser(prog="nodeplug probe", description=__doc__)
    parser.add_argument("socket", type=Path, metavar="SOCKET")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS")
    args = parser.parse_args(argv)

    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from plugins.core import client

    with client.channel(args.socket) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined] # made at run time
            answer = check(health_pb2.HealthCheckRequest(), timeout=args.timeout)
        except grpc.RpcError as error:
            print(f"{args.socket}: {client.reason(error)}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
