"""Registration by the plugin watcher, for a device plugin.

The watcher registers a socket file once. It does not notice when the ListAndWatch stream ends (the kubelet let us go,
or the process before us served it until the hand-over): the devices are unhealthy then, for as long as the same file
stays where it is. So the file is made anew when the kubelet has taken the plugin and no stream is open.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import grpc

from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as pb
from plugins.core import log
from plugins.core.registration.kubelet import VERSION
from plugins.core.registration.watcher import DEVICE, WatcherRegistration

logger = log.get("device.registration")

_GRACE = (3.0, 60.0)  # seconds without a stream, at first and at most; a kubelet that restarts comes back by itself


class WatchedResource(WatcherRegistration):
    """One resource in plugins_registry; its socket serves the registration and the devices."""

    def __init__(self, resource: str, socket: Path, *, grace: float = _GRACE[0]) -> None:
        """
        Args:
            resource: extended resource name, "domain/name".
            socket: path of the socket, in plugins_registry.
            grace: seconds without a stream after which the kubelet is made to register again.
        """
        super().__init__(DEVICE, resource, endpoint="", versions=(VERSION,), socket=socket)
        self._guard = threading.Lock()
        self._grace = self._pause = grace
        self._streams = 0
        self._timer: threading.Timer | None = None
        self._inherited = False
        self._stopped = False

    def inherit(self) -> None:
        """The kubelet registered the process before us, and its stream ended with that process."""
        self._inherited = True

    def start(self) -> None:
        """Where nothing was inherited the kubelet comes by itself, once a second."""
        if self._inherited:
            self._renew()

    def stop(self) -> None:
        """Leave the socket alone from now on."""
        with self._guard:
            self._stopped = True
            self._disarm()

    def stream_opened(self) -> None:
        """The kubelet watches the devices."""
        with self._guard:
            self._streams += 1
            self._pause = self._grace
            self._disarm()

    def stream_closed(self) -> None:
        """A ListAndWatch stream ended, for whatever reason."""
        with self._guard:
            self._streams -= 1
            self._arm()

    def NotifyRegistrationStatus(
        self, request: pb.RegistrationStatus, context: grpc.ServicerContext
    ) -> pb.RegistrationStatusResponse:
        """The kubelet's verdict; after a yes a stream has to come."""
        response = super().NotifyRegistrationStatus(request, context)
        with self._guard:
            self._arm()
        return response

    def _arm(self) -> None:
        if self._streams == 0 and self.registered() and self._timer is None and not self._stopped:
            self._timer = threading.Timer(self._pause, self._expired)
            self._timer.daemon = True
            self._timer.start()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        with self._guard:
            self._timer = None
            if self._streams or self._stopped:
                return
            self._pause = min(self._pause * 2, _GRACE[1])
        logger.warning("the kubelet does not watch the devices; making it register again", resource=self.name)
        self._renew()

    def _renew(self) -> None:
        """Remove the file; core notices at once and binds it anew, and the kubelet registers what is new."""
        with contextlib.suppress(FileNotFoundError):
            self.listener.path.unlink()
