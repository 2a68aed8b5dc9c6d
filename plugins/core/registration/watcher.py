"""Registration that the kubelet's plugin watcher drives: it finds our socket in plugins_registry and asks.

Contract (pluginregistration.v1): the kubelet dials the socket, calls GetInfo with a deadline of 1 s, validates, and
tells the outcome by NotifyRegistrationStatus. It keeps no connection afterwards. A socket file that is made anew costs
an unregister and a register, so the path keeps its inode across a hand-over (see `handover`).
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import grpc

from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as pb
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as rpc
from plugins.core import log
from plugins.core.plugin import Listener, Service

logger = log.get("registration")

CSI = "CSIPlugin"
DEVICE = "DevicePlugin"
DRA = "DRAPlugin"


class WatcherRegistration(rpc.RegistrationServicer):
    """Serves `pluginregistration.Registration`; put `service` and `listener` into the plugin's Server."""

    def __init__(
        self, kind: str, name: str, *, endpoint: str, versions: tuple[str, ...], socket: Path, keep: bool = False
    ) -> None:
        """
        Args:
            kind: CSI, DEVICE or DRA.
            name: driver or resource name.
            endpoint: path of the plugin's own socket; "" means this registration socket serves the plugin too.
            versions: supported versions of the plugin's API, newest first.
            socket: path of the registration socket, in plugins_registry.
            keep: leave the socket in place at a stop.
        """
        self.name = name
        self.listener = Listener(f"registration/{name}", socket, keep=keep)
        self._info = pb.PluginInfo(type=kind, name=name, endpoint=endpoint, supported_versions=versions)
        self._registered = threading.Event()

    @property
    def service(self) -> Service:
        """For the `services` of the Server that this registration announces."""
        return functools.partial(rpc.add_RegistrationServicer_to_server, self)

    def start(self) -> None:
        """Nothing to do: the kubelet comes by itself, once a second."""

    def registered(self) -> bool:
        """Whether the last word of the kubelet was yes."""
        return self._registered.is_set()

    def inherit(self) -> None:
        """The socket kept its inode across a hand-over, so the kubelet still counts us as registered."""
        self._registered.set()

    def republished(self, listener: str) -> None:
        """The kubelet unregisters and registers by itself when it sees a new socket file."""
        if listener == self.listener.name:
            self._registered.clear()

    def stop(self) -> None:
        """Nothing to do: removing the socket is what deregisters, and that is the listener's business."""

    def GetInfo(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.PluginInfo:
        """Who we are. Answered from memory: the kubelet gives it 1 s and then backs off for long."""
        return self._info

    def NotifyRegistrationStatus(
        self, request: pb.RegistrationStatus, context: grpc.ServicerContext
    ) -> pb.RegistrationStatusResponse:
        """The kubelet's verdict."""
        if request.plugin_registered:
            self._registered.set()
            logger.info("registered with the kubelet", plugin=self.name, type=self._info.type)
        else:
            self._registered.clear()
            logger.error("the kubelet refused the registration", plugin=self.name, reason=request.error)
        return pb.RegistrationStatusResponse()
