"""Registration in which we call the kubelet: v1beta1 Registration/Register on its kubelet.sock.

What the kubelet does (1.36, read and measured): it dials back inside Register, asks for the options, and then opens
ListAndWatch. It never dials again by itself. Its one sign that it let us go is that no ListAndWatch stream is open,
be it restarted, or because an older instance's stream ended and took ours with it. So: no stream means "register".
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import grpc

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core import client, log
from plugins.core.plugin import Listener
from plugins.core.registration.presence import Presence
from plugins.core.sockets import FileIdentity, file_identity

logger = log.get("registration")

VERSION = "v1beta1"
_CALL_TIMEOUT = 15.0  # seconds; Register has none of its own, and the kubelet's dial back may take 10
_STREAM_TIMEOUT = 2.0  # seconds from an accepted Register to an open stream, before we ask again
_BACKOFF = (0.02, 30.0)  # seconds: first and longest pause after a refusal
_SETTLED = 1.0  # seconds that a stream must have lived for its end to be answered without any pause


class KubeletRegistration:
    """Keeps one resource registered: at start, after a kubelet restart, and whenever the kubelet let it go."""

    def __init__(
        self,
        resource: str,
        listener: Listener,
        *,
        kubelet_socket: Path,
        preferred_allocation: bool = False,
        pre_start: bool = False,
    ) -> None:
        """
        Args:
            resource: extended resource name, "domain/name".
            listener: the resource's own socket; it must lie in the folder of kubelet_socket.
            kubelet_socket: where the kubelet takes registrations.
            preferred_allocation, pre_start: what GetDevicePluginOptions announces too.
        """
        self.name = resource
        self._listener = listener
        self._kubelet = kubelet_socket
        self._request = pb.RegisterRequest(
            version=VERSION,
            endpoint=listener.path.name,
            resource_name=resource,
            options=pb.DevicePluginOptions(
                get_preferred_allocation_available=preferred_allocation, pre_start_required=pre_start
            ),
        )
        self._changed = threading.Condition()
        self._streams = 0
        self._forgotten = 0  # how often our socket was wiped
        self._opened = 0.0  # monotonic seconds: when there last came to be a stream
        self._asked: FileIdentity | None = None  # the kubelet.sock that took our last Register
        self._tried: FileIdentity | None = None  # the kubelet.sock that we last asked, whatever it said
        self._due = 0.0  # monotonic seconds: not before
        self._pause = _BACKOFF[0]
        self._stopping = False
        self._presence = Presence()
        self._thread = threading.Thread(target=self._run, name=f"register {resource}", daemon=True)

    def start(self) -> None:
        """Register in the background, as soon as the kubelet is there."""
        self._presence.watch(self._kubelet.parent, self._wake)
        self._presence.start()
        self._thread.start()

    def registered(self) -> bool:
        """Whether the kubelet watches our devices: a stream is open."""
        with self._changed:
            return self._streams > 0

    def inherit(self) -> None:
        """The kubelet's stream ended with the process before us: only a new Register brings it back."""

    def republished(self, listener: str) -> None:
        """Our socket was wiped and is there again: the kubelet that did that does not know us."""
        if listener == self._listener.name:
            with self._changed:
                self._forgotten += 1
                self._asked = None
                self._retry_now()

    def stop(self) -> None:
        """End the background work."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._presence.stop()
        if self._thread.is_alive():
            self._thread.join()

    def stream_opened(self) -> None:
        """The kubelet opened ListAndWatch."""
        with self._changed:
            self._streams += 1
            if self._streams == 1:
                self._opened = time.monotonic()
                logger.info("the kubelet watches the devices", resource=self.name)
            self._changed.notify_all()

    def stream_closed(self) -> None:
        """A ListAndWatch stream ended, for whatever reason."""
        with self._changed:
            self._streams -= 1
            if self._streams == 0:
                self._asked = None
                self._ended()
            self._changed.notify_all()

    def _ended(self) -> None:
        """No stream any more. At once if it had settled; with the growing pause if the kubelet drops us each time."""
        now = time.monotonic()
        if now - self._opened >= _SETTLED:
            self._pause = _BACKOFF[0]
        self._due = now + self._pause

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (wait := self._wait()) != 0:
                    self._changed.wait(wait)
                if self._stopping:
                    return
                self._tried = file_identity(self._kubelet)
                self._due = time.monotonic() + self._pause * random.uniform(0.9, 1.1)
                self._pause = min(self._pause * 2, _BACKOFF[1])
            self._register()

    def _wait(self) -> float | None:
        """Seconds until a Register is due; 0 for now, None until something changes."""
        present = file_identity(self._kubelet)
        if present is None:
            return None  # no kubelet: its socket's creation wakes us
        if not self._listener.path.is_socket():
            return None  # wiped, and about to be bound again: the kubelet could not dial back, and would wait 1 s
        if self._streams > 0 and present == self._asked:
            return None
        return max(0.0, self._due - time.monotonic())

    def _register(self) -> None:
        asked = self._tried
        began, forgotten = time.monotonic(), self._forgotten
        try:
            with client.channel(self._kubelet) as channel:
                rpc.RegistrationStub(channel).Register(self._request, timeout=_CALL_TIMEOUT)
        except grpc.RpcError as error:
            logger.warning("the kubelet did not take the registration", resource=self.name, reason=client.reason(error))
            return
        logger.info("registered with the kubelet", resource=self.name)
        with self._changed:
            if self._forgotten != forgotten:
                return  # wiped while we asked: what the kubelet took is the socket that is gone
            self._asked = asked
            if self._opened < began:  # its stream may have come, and gone, before the answer did
                self._due = max(self._due, time.monotonic() + _STREAM_TIMEOUT)

    def _wake(self) -> None:
        """Something happened in the kubelet's folder. A new kubelet.sock is asked at once, whatever the back-off."""
        with self._changed:
            if file_identity(self._kubelet) != self._tried:
                self._retry_now()

    def _retry_now(self) -> None:
        self._due = 0.0
        self._pause = _BACKOFF[0]
        self._changed.notify_all()
