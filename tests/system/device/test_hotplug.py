"""A loop device from the kernel's event to a stream of the daemon, and to a container."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core import client
from tests.contract.device.conftest import Daemon
from tests.system.device.conftest import NEEDS_ROOT, WAIT, KernelEvents, Loop

pytestmark = NEEDS_ROOT
BOUND = 0.020  # seconds from the kernel's event to the list at the client
Make = Callable[[], Loop]


class Stream:
    """What a ListAndWatch stream says, and when."""

    def __init__(self, stub: rpc.DevicePluginStub) -> None:
        self.health: dict[str, str] = {}
        self.at = 0.0
        self._changed = threading.Condition()
        self._call = stub.ListAndWatch(pb.Empty())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, unit_id: str, health: str | None) -> float:
        """When the list was first as wanted; None: the device is not in it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.health.get(unit_id) == health, WAIT), self.health
            return self.at

    def _run(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in self._call:
                now = time.monotonic()
                with self._changed:
                    self.health, self.at = {d.ID: d.health for d in message.devices}, now
                    self._changed.notify_all()


@pytest.fixture
def loop_resource(short_tmp: Path, loops: Make) -> Iterator[tuple[rpc.DevicePluginStub, list[Loop]]]:
    """A daemon that offers three loop devices, if they are there."""
    mine = [loops() for _ in range(3)]
    names = ", ".join(f'"{loop.name}"' for loop in mine)
    config = f'[[resources]]\nname = "loop"\nselect = [{{ subsystem = "block", name = [{names}] }}]\n'
    process = Daemon(short_tmp, config)
    try:
        process.serving()
        (socket,) = (short_tmp / "k/device-plugins").glob("nodeplug-loop-*.sock")
        with client.channel(socket) as channel:
            yield rpc.DevicePluginStub(channel), mine
        assert process.stop() == 0
    finally:
        process.kill()


def test_from_the_kernels_event_to_the_list(
    loop_resource: tuple[rpc.DevicePluginStub, list[Loop]], capsys: pytest.CaptureFixture[str]
) -> None:
    stub, (loop, *_) = loop_resource
    stream, kernel = Stream(stub), KernelEvents()
    stream.wait(loop.name, None)
    took: dict[str, list[float]] = {"add": [], "remove": []}
    for _ in range(20):
        for action, health in (("add", "Healthy"), ("remove", None)):
            kernel.forget()
            loop.add() if action == "add" else loop.remove()
            seen = stream.wait(loop.name, health)
            took[action].append(seen - kernel.time(f"{action}@{loop.sys_path.removeprefix('/sys')}"))
    kernel.close()
    with capsys.disabled():
        for action, times in took.items():
            ms = sorted(1000 * t for t in times)
            print(f"\n{action}: event to list {statistics.median(ms):.2f} ms median, {ms[-2]:.2f} ms p95", end="")
    for times in took.values():
        assert statistics.median(times) < BOUND


def allocate(stub: rpc.DevicePluginStub, unit_id: str) -> list[str]:
    request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=[unit_id])])
    (response,) = stub.Allocate(request, timeout=WAIT).container_responses
    return [device.host_path for device in response.devices]


def test_what_is_handed_out_is_the_device_that_was_found(
    loop_resource: tuple[rpc.DevicePluginStub, list[Loop]],
) -> None:
    """A node that is something else by now is refused, shown as unhealthy, and good again when it is back."""
    stub, (loop, aside, _) = loop_resource
    stream = Stream(stub)
    loop.add()
    stream.wait(loop.name, "Healthy")
    assert allocate(stub, loop.name) == [str(loop.node)]
    loop.node.rename(aside.node)
    loop.node.symlink_to(aside.node)  # even to the very same device
    with pytest.raises(grpc.RpcError) as raised:
        allocate(stub, loop.name)
    assert client.reason(raised.value).startswith("FAILED_PRECONDITION: nodeplug.internal/loop: device 'loop")
    assert "is a symbolic link, not the device that was found" in client.reason(raised.value)
    stream.wait(loop.name, "Unhealthy")
    loop.node.unlink()
    aside.node.rename(loop.node)
    stream.wait(loop.name, "Healthy")
    assert allocate(stub, loop.name) == [str(loop.node)]
    loop.remove()
    stream.wait(loop.name, None)
    with pytest.raises(grpc.RpcError) as raised:
        allocate(stub, loop.name)
    assert client.reason(raised.value).startswith("INVALID_ARGUMENT: nodeplug.internal/loop: there is no device 'loop")
