"""The client side of a Unix socket with gRPC: the options every channel of ours needs, and errors as text."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import grpc

# Without it the authority is the escaped socket path, which strict HTTP/2 servers refuse (grpc #38142).
_OPTIONS = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))


def channel(socket: Path) -> grpc.Channel:
    """A channel of its own to that socket: channels of one process would share a connection otherwise."""
    return grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS)


def reason(error: grpc.RpcError) -> str:
    """ "CODE: details" of a call that failed."""
    call = cast(grpc.Call, error)  # every error that a stub raises is the call as well
    return f"{call.code().name}: {call.details()}"
