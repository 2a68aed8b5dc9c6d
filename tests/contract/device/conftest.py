"""One resource on a real socket, with an inventory that the test feeds; and the whole daemon beside a kubelet."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core.plugin import Server
from plugins.core.server import RunningServer
from plugins.device.hardware import Device
from plugins.device.inventory import Inventory
from plugins.device.service import DevicePlugin
from plugins.lab.kubelet import Kubelet
from tests import processes
from tests.unit.device.kit import rule

WAIT = 20.0  # seconds after which something that should have happened has not


@dataclass
class Watchers:
    """Counts streams as a registration does."""

    open: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def stream_opened(self) -> None:
        with self.changed:
            self.open += 1
            self.changed.notify_all()

    def stream_closed(self) -> None:
        with self.changed:
            self.open -= 1
            self.changed.notify_all()

    def wait(self, streams: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.open == streams, WAIT)


class Resource:
    """A resource that is served, seen from both sides."""

    def __init__(self, folder: Path, devices: Sequence[Device], **table: Any) -> None:
        self.inventory = Inventory([rule(**table)])
        self.inventory.replace(devices)
        self.watchers = Watchers()
        self.rechecked: list[str] = []
        servicer = DevicePlugin(rule(**table), self.inventory, self, self.watchers)
        add = functools.partial(rpc.add_DevicePluginServicer_to_server, servicer)
        self._socket = folder / "it.sock"
        self._server = RunningServer(Server("it", (add,), (), 4), str(self._socket), frozenset())
        self._channels: list[grpc.Channel] = []

    def recheck(self, sys_path: str) -> None:
        self.rechecked.append(sys_path)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        for channel in self._channels:
            channel.close()
        self.inventory.close()
        self._server.stop(WAIT)

    def stub(self) -> rpc.DevicePluginStub:
        """A caller with a connection of its own. Its flow control window does not grow by itself."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
        self._channels.append(grpc.insecure_channel(f"unix:{self._socket}", options=options))
        return rpc.DevicePluginStub(self._channels[-1])

    def allocate(self, *containers: Sequence[str]) -> pb.AllocateResponse:
        requests = [pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        return self.stub().Allocate(pb.AllocateRequest(container_requests=requests), timeout=WAIT)

    def lists(self) -> Iterator[pb.ListAndWatchResponse]:
        """A ListAndWatch stream."""
        return iter(self.stub().ListAndWatch(pb.Empty(), timeout=WAIT))


Serve = Callable[..., Resource]


@pytest.fixture
def serve(short_tmp: Path) -> Iterator[Serve]:
    """Serves a resource with these devices; ends with the test."""
    with contextlib.ExitStack() as undo:

        def run(*devices: Device, **table: Any) -> Resource:
            resource = Resource(short_tmp, devices, **table)
            undo.callback(resource.stop)
            resource.start()
            return resource

        yield run


class Daemon(processes.Process):
    """`nodeplug device serve` on a kubelet's folder."""

    def __init__(self, root: Path, config: str, state: str = "s") -> None:
        (root / "config.toml").write_text(config)
        command = [sys.executable, "-m", "plugins", "device", "serve", "--config", f"{root}/config.toml"]
        command += ["--kubelet-dir", f"{root}/k", "--state-dir", f"{root}/{state}"]
        super().__init__(command, root / f"log.{len(list(root.glob('log.*')))}")


@pytest.fixture
def kubelet(short_tmp: Path) -> Iterator[Kubelet]:
    """The lab's kubelet, with the real one's behaviour and times."""
    with Kubelet(short_tmp / "k") as running:
        yield running


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons, on one state directory unless told otherwise; all are ended after the test."""
    started: list[Daemon] = []

    def run(config: str, state: str = "s") -> Daemon:
        started.append(Daemon(short_tmp, config, state))
        return started[-1]

    yield run
    for process in started:
        process.kill()
