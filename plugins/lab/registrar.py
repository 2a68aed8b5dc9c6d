"""kubelet.sock and the device plugins behind it: the Register call, and which client is whose.

The kubelet's map of clients has a property that a plugin must survive. There is one client per resource name, and a
second registration replaces the first *in the map*; but the first one's stream lives on. When it ends, the kubelet
looks up who is in the map now, and lets *that* one go: the newcomer's connection is closed, its devices turn unhealthy.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.lab.channels import Deadline
from plugins.lab.deviceclient import DeviceClient
from plugins.lab.devicestate import DeviceInfo, DeviceState
from plugins.lab.door import Door
from plugins.lab.errors import LabError
from plugins.lab.journal import Journal
from plugins.lab.names import is_extended_resource
from plugins.lab.timings import KubeletTimings

SOCKET = "kubelet.sock"
VERSIONS = ("v1beta1",)


class Registrar(rpc.RegistrationServicer):
    """Serves Register, and handles plugins of type DevicePlugin that come through plugins_registry."""

    def __init__(
        self, folder: Path, state: DeviceState, journal: Journal, timings: KubeletTimings, saved: Callable[[], None]
    ) -> None:
        """saved: writes the checkpoint; called after every list."""
        self._folder = folder
        self._state = state
        self._journal = journal
        self._timings = timings
        self._saved = saved
        self._clients: dict[str, DeviceClient] = {}
        self._every: list[DeviceClient] = []  # the kubelet never closes the connection of a replaced client
        self._endpoints: dict[str, DeviceClient] = {}
        self._guard = threading.Lock()
        self._gone = False
        self._door = Door(folder / SOCKET)
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="kubelet.sock")
        self._server = grpc.server(self._pool)
        rpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(self._door.target)

    def start(self) -> None:
        """Remove every socket in the folder (files and folders stay), then listen."""
        for entry in self._folder.iterdir():
            if stat.S_ISSOCK(entry.lstat().st_mode):
                entry.unlink(missing_ok=True)
        self._server.start()
        self._door.open()

    def vanish(self) -> None:
        """The process is gone: every connection breaks, the socket file stays, nothing is recorded any more."""
        with self._guard:
            self._gone = True
            clients = list(self._every)
        self._door.slam()
        for client in clients:
            client.disconnect()
        self._server.stop(None)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def endpoint(self, resource: str) -> DeviceClient | None:
        """The client that Allocate goes to; None: nobody registered since this kubelet started."""
        with self._guard:
            return self._endpoints.get(resource)

    def Register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.Empty:
        """A plugin presents itself. It is dialled within this call."""
        name = request.resource_name
        try:
            _check(name, (request.version,))
            self._connect(name, self._folder / request.endpoint, Deadline(context.time_remaining()))
        except LabError as error:
            self._note("register_failed", name, endpoint=request.endpoint, error=str(error))
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        self._note("device_register", name, endpoint=request.endpoint)
        return pb.Empty()

    def validate(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Handler: the rules of Register for a plugin found by the watcher."""
        _check(name, versions)

    def register(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Handler: dial it, as Register does."""
        self._connect(name, Path(endpoint), Deadline(None))
        self._note("device_register", name, endpoint=endpoint)

    def deregister(self, name: str, endpoint: str) -> None:
        """Handler: its registration socket is gone."""
        self._let_go(name)

    def _connect(self, name: str, socket: Path, deadline: Deadline) -> None:
        client = DeviceClient(name, socket)
        with self._guard:
            self._clients[name] = client
            self._every.append(client)
        try:
            client.connect(self._timings.dial, deadline)
        except LabError:
            with self._guard:  # whoever is there now: a failed newcomer takes the one before it off the map
                self._clients.pop(name, None)
            raise
        with self._guard:
            self._endpoints[name] = client
            gone = self._gone
        if gone:
            client.disconnect()
            return
        self._state.connected(name)
        threading.Thread(target=self._watch, args=(client,), name=f"ListAndWatch {name}", daemon=True).start()

    def _watch(self, client: DeviceClient) -> None:
        def on_list(devices: list[DeviceInfo]) -> None:
            if not self._gone:
                self._state.replace(client.resource, devices)
                self._saved()

        why = client.watch(on_list)
        self._note("stream_ended", client.resource, socket=client.socket.name, reason=why)
        if not self._gone:
            self._let_go(client.resource)

    def _let_go(self, name: str) -> None:
        """Disconnect whoever is in the map under this name at this moment."""
        with self._guard:
            current = self._clients.pop(name, None)
        if current is None:
            return
        current.disconnect()
        if not self._gone:
            self._state.disconnected(name)
            self._note("device_disconnect", name, socket=current.socket.name)

    def _note(self, kind: str, subject: str, **fields: object) -> None:
        if not self._gone:
            self._journal.record(kind, subject, **fields)


def _check(name: str, versions: tuple[str, ...]) -> None:
    if not set(versions) & set(VERSIONS):
        raise LabError(
            f"requested API version {json.dumps(', '.join(versions))} is not supported by kubelet. "
            f"Supported version is {json.dumps(VERSIONS)}"
        )
    if not is_extended_resource(name):
        raise LabError(f"the ResourceName {json.dumps(name)} is invalid")
