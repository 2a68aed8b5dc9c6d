"""A plugin for the tests of the lifecycle: it says who it is, fails and hangs on request, and streams."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator, Sequence

import grpc

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as device
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as device_rpc
from plugins.api.kms.v2 import kms_pb2 as kms
from plugins.api.kms.v2 import kms_pb2_grpc as kms_rpc
from plugins.core import cli, errors
from plugins.core.broadcast import Broadcast, Closed
from plugins.core.config import DaemonConfig
from plugins.core.plugin import DaemonSpec, Listener, Plugin, Registration, Server
from plugins.core.registration import watcher
from plugins.core.store import Migration

NAME = "echo.test.internal"


class Config(DaemonConfig, frozen=True, kw_only=True):
    start: str = ""  # "fail" or "hang"
    label: str = ""
    workers: int = 4


class Kms(kms_rpc.KeyManagementServiceServicer):
    """Status says who answers; Encrypt takes its time; Decrypt fails by name."""

    def __init__(self, plugin: Echo) -> None:
        self.plugin = plugin

    def Status(self, request: kms.StatusRequest, context: grpc.ServicerContext) -> kms.StatusResponse:
        return kms.StatusResponse(version=self.plugin.label, healthz="ok", key_id=str(os.getpid()))

    def Encrypt(self, request: kms.EncryptRequest, context: grpc.ServicerContext) -> kms.EncryptResponse:
        threading.Event().wait(float(request.uid or 0))
        row = self.plugin.runtime.store.one("SELECT count(*) FROM calls")
        self.plugin.runtime.store.execute("INSERT INTO calls VALUES (?)", (request.uid,))
        assert row is not None
        return kms.EncryptResponse(
            key_id=str(os.getpid()), ciphertext=str(row[0]).encode(), annotations={"peer.test": context.peer().encode()}
        )

    def Decrypt(self, request: kms.DecryptRequest, context: grpc.ServicerContext) -> kms.DecryptResponse:
        kind = getattr(errors, request.key_id, None)
        if kind is None:
            raise RuntimeError("text that no caller may read")
        raise kind("for the caller", detail="for the log")


class Devices(device_rpc.DevicePluginServicer):
    """A stream that stays open."""

    def __init__(self, changes: Broadcast[int]) -> None:
        self.changes = changes

    def ListAndWatch(
        self, request: device.Empty, context: grpc.ServicerContext
    ) -> Iterator[device.ListAndWatchResponse]:
        subscription = self.changes.subscribe()
        context.add_callback(subscription.cancel)
        try:
            while subscription.next() is not None:
                yield device.ListAndWatchResponse()
        except Closed:
            return


class Echo(Plugin[Config]):
    def start(self) -> Sequence[Server]:
        config = self.runtime.config
        if config.start == "fail":
            raise errors.ConfigError("cannot start as configured")
        if config.start == "hang":
            threading.Event().wait()
        self.label = config.label
        self.changes = Broadcast(1)
        folder = config.kubelet_dir
        socket = config.socket or folder / "plugins" / NAME / "echo.sock"
        self.watcher = watcher.WatcherRegistration(
            watcher.CSI,
            NAME,
            endpoint=str(socket),
            versions=("1.0.0",),
            socket=folder / "plugins_registry" / f"{NAME}-reg.sock",
            keep=True,
        )
        services = (
            functools.partial(kms_rpc.add_KeyManagementServiceServicer_to_server, Kms(self)),
            functools.partial(device_rpc.add_DevicePluginServicer_to_server, Devices(self.changes)),  # type: ignore[abstract]
            self.watcher.service,
        )
        return [Server("echo", services, (Listener("echo", socket), self.watcher.listener), config.workers)]

    def registrations(self) -> Sequence[Registration]:
        return [self.watcher]

    def drain(self) -> None:
        self.changes.close()

    def reload(self, config: Config) -> None:
        if config.label == "bad":
            raise errors.ConfigError("this label is not possible")
        self.label = config.label


SPEC = DaemonSpec("echo", "for tests", Config, Echo, (Migration(1, "CREATE TABLE calls (uid TEXT);", 1),))

if __name__ == "__main__":
    sys.exit(cli.main(SPEC, sys.argv[1:]))
