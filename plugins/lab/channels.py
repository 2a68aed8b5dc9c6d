"""Connections to plugins, with the options that the real callers set."""

from __future__ import annotations

import time
import urllib.parse
from pathlib import Path

import grpc

from plugins.lab.errors import LabError

LOCALHOST = "localhost"  # what kubelet and API server send as :authority, whatever the socket


def path_authority(path: Path) -> str:
    """The :authority where a Go caller sets none: the percent-encoded path (registration sockets)."""
    return urllib.parse.quote(str(path), safe="!$&'()*+,;=:[]@~")


def channel(path: Path, *, authority: str = LOCALHOST) -> grpc.Channel:
    """A lazy connection to a Unix socket, shared with nothing else; default limits (4 MiB a message)."""
    return grpc.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.default_authority", authority),
            # A pool shared by address would hand a new channel the back-off of a dead one.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def dial(path: Path, *, timeout: float, authority: str = LOCALHOST) -> grpc.Channel:
    """A connection that stands when this returns (grpc-go: WithBlock), trying until the time is over.

    Raises:
        LabError: nobody answered there.
    """
    made = channel(path, authority=authority)
    ready = grpc.channel_ready_future(made)
    try:
        ready.result(timeout)
    except grpc.FutureTimeoutError:
        ready.cancel()
        made.close()
        raise LabError(f"failed to dial socket {path} within {timeout:g} s") from None
    return made


def reason(error: grpc.RpcError) -> str:
    """Code and message, as Go prints them."""
    call = _status(error)
    if call is None:
        return repr(error)
    name = call.code().name.title().replace("_", "")  # DEADLINE_EXCEEDED is DeadlineExceeded there
    return f"rpc error: code = {name} desc = {call.details()}"


def code(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code; UNKNOWN where the error carries none."""
    call = _status(error)
    return call.code() if call else grpc.StatusCode.UNKNOWN


def _status(error: object) -> grpc.Call | None:
    """The errors that stubs raise are calls as well, which their declared type does not say."""
    return error if isinstance(error, grpc.Call) else None


class Deadline:
    """A moment in the future that several steps share."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, at_most: float | None = None) -> float | None:
        """Seconds left, bounded; None: no bound at all."""
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        if left is None or at_most is None:
            return at_most if left is None else left
        return min(left, at_most)
