"""An empty call through a daemon's public socket beside the same call on a bare grpcio server.

Our side pays for the relaying acceptor with its look at the caller, and for the interceptor. Same client, same message.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import daemons, places, processes
from benchmarks.harness import Figure, Options, p50, pairs, split
from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc

BOUND = 1.3
_CALLS = 300  # in a batch, whose median is one value
_LAUNCHES = 6


def run(options: Options) -> list[Figure]:
    """Probe of the CSI daemon."""
    ours: list[float] = []
    floor: list[float] = []
    with places.root() as root:
        pool = places.pool(root)
        for number, count in enumerate(split(options.pairs, _LAUNCHES), 1):
            values = _launch(root, pool, f"edge, launch {number}", count)
            ours += values[0]
            floor += values[1]
    note = f"each value is the p50 of {_CALLS} calls; both servers are started anew {_LAUNCHES} times"
    return [Figure("edge: empty RPC p50", "ms", ours, floor, bound=BOUND, note=note)]


def _launch(root: Path, pool: Path, name: str, count: int) -> tuple[list[float], list[float]]:
    bare = root / "bare.sock"
    with (
        daemons.csi(root, pool) as ours,
        processes.serving(processes.bare(bare, "csi"), bare),
        processes.open_channel(ours) as our_channel,
        processes.open_channel(bare) as bare_channel,
    ):
        mine, floor = rpc.IdentityStub(our_channel), rpc.IdentityStub(bare_channel)
        request = pb.ProbeRequest()
        return pairs(name, count, p50(lambda: mine.Probe(request), _CALLS), p50(lambda: floor.Probe(request), _CALLS))
