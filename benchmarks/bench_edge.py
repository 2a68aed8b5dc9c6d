"""An empty call through a daemon's public socket beside the same call on a bare grpcio server.

Our side pays for the relaying acceptor with its look at the caller, and for the interceptor. Same client, same message.
"""

from __future__ import annotations

from benchmarks import daemons, places, processes
from benchmarks.harness import Figure, Options, p50, pairs
from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc

BOUND = 1.3
_CALLS = 300  # in a batch, whose median is one value


def run(options: Options) -> list[Figure]:
    """Probe of the CSI daemon."""
    with (
        places.root() as root, daemons.csi(root, places.pool(root)) as ours,
        processes.serving(processes.bare(root / "bare.sock", "csi"), root / "bare.sock") as bare,
        processes.open_channel(ours) as our_channel,
        processes.open_channel(bare) as bare_channel,
    ):
        mine, floor = rpc.IdentityStub(our_channel), rpc.IdentityStub(bare_channel)
        request = pb.ProbeRequest()
        values = pairs(
            "edge", options.pairs, p50(lambda: mine.Probe(request), _CALLS), p50(lambda: floor.Probe(request), _CALLS)
        )
    return [Figure("edge: empty RPC p50", "ms", *values, bound=BOUND, note=f"each value is the p50 of {_CALLS} calls")]
