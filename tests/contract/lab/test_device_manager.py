"""The lab's device manager does to a device plugin what the kubelet does."""

from __future__ import annotations

import dataclasses
import socket
import threading
from pathlib import Path

import grpc
import pytest

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.lab.devicestate import Amount
from plugins.lab.errors import AdmissionError
from plugins.lab.kubelet import Kubelet
from tests.contract.lab.conftest import QUICK
from tests.contract.lab.fakes import FakeDevice, FakeRegistration, Servers, register

RESOURCE = "example.org/widget"
WAIT = 10.0


def plugin(kubelet: Kubelet, servers: Servers, fake: FakeDevice, name: str = "widget.sock") -> grpc.Server:
    """Serve a device plugin and register it."""
    folder = kubelet.root / "device-plugins"
    server = servers.serve(folder / name, fake.add)
    register(folder / "kubelet.sock", RESOURCE, name)
    return server


def test_devices_are_counted_and_each_list_replaces_the_one_before(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a", "b")
    plugin(kubelet, servers, fake)
    assert kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT) == Amount(2, 2)
    fake.publish(pb.Device(ID="a", health="Healthy"), pb.Device(ID="c", health="Unhealthy"))
    kubelet.devices.wait(RESOURCE, capacity=2, allocatable=1, timeout=WAIT)
    fake.publish()
    assert kubelet.devices.wait(RESOURCE, capacity=0, timeout=WAIT) == Amount(0, 0)
    shown = [(e["capacity"], e["allocatable"]) for e in kubelet.journal.events("capacity", RESOURCE)]
    assert shown == [(2, 2), (2, 1), (0, 0)]


@pytest.mark.parametrize(
    "name", ["widget", "kubernetes.io/widget", "x.kubernetes.io/w", "requests.a/b", "a/b/c", "A/b"]
)
def test_a_name_that_is_no_extended_resource_is_refused(kubelet: Kubelet, name: str) -> None:
    with pytest.raises(grpc.RpcError, match="is invalid"):
        register(kubelet.root / "device-plugins" / "kubelet.sock", name, "x.sock")


def test_another_version_is_refused(kubelet: Kubelet) -> None:
    with pytest.raises(grpc.RpcError, match="is not supported by kubelet"):
        register(kubelet.root / "device-plugins" / "kubelet.sock", RESOURCE, "x.sock", version="v1alpha")


def test_the_plugin_is_dialled_within_register(kubelet: Kubelet, folder: Path) -> None:
    """Nobody serves there yet: the call fails after the dial's time, and nothing is registered."""
    with Kubelet(folder / "q", timings=dataclasses.replace(QUICK, dial=0.2)) as quick:
        with pytest.raises(grpc.RpcError, match="failed to dial"):
            register(quick.root / "device-plugins" / "kubelet.sock", RESOURCE, "nobody.sock")
        assert quick.devices.amounts() == {}


def test_options_that_fail_fail_the_registration(kubelet: Kubelet, servers: Servers) -> None:
    class Broken(FakeDevice):
        def GetDevicePluginOptions(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.DevicePluginOptions:
            context.abort(grpc.StatusCode.INTERNAL, "broken")

    with pytest.raises(grpc.RpcError, match="failed to get device plugin options"):
        plugin(kubelet, servers, Broken("a"))


def test_a_stream_that_ends_leaves_capacity_for_the_grace_period(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a", "b")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    fake.end()
    kubelet.devices.wait(RESOURCE, capacity=2, allocatable=0, timeout=WAIT)
    kubelet.devices.wait(RESOURCE, absent=True, timeout=WAIT)
    gone = kubelet.journal.wait("resource_deleted", RESOURCE, timeout=WAIT)
    ended = kubelet.journal.events("device_disconnect", RESOURCE)[0]
    assert gone.time - ended.time >= QUICK.stop_grace * 0.9


def test_the_kubelet_does_not_dial_again(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a")
    server = plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    server.stop(None).wait()
    kubelet.devices.wait(RESOURCE, allocatable=0, timeout=WAIT)
    servers.serve(kubelet.root / "device-plugins" / "widget.sock", FakeDevice("a").add)
    servers.serve(kubelet.root / "device-plugins" / "other.sock", FakeDevice("x").add)
    register(kubelet.root / "device-plugins" / "kubelet.sock", "example.org/other", "other.sock")
    kubelet.devices.wait("example.org/other", allocatable=1, timeout=WAIT)
    assert kubelet.devices.amount(RESOURCE) in (Amount(1, 0), None)


def test_the_end_of_the_first_stream_throws_the_newcomer_out(kubelet: Kubelet, servers: Servers) -> None:
    old, new = FakeDevice("a"), FakeDevice("a", "b")
    plugin(kubelet, servers, old, "old.sock")
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    plugin(kubelet, servers, new, "new.sock")
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    mark = kubelet.journal.mark()
    old.end()
    kubelet.devices.wait(RESOURCE, capacity=2, allocatable=0, timeout=WAIT)
    thrown = kubelet.journal.wait("device_disconnect", RESOURCE, since=mark, timeout=WAIT)
    assert thrown["socket"] == "new.sock"
    kubelet.journal.wait("stream_ended", RESOURCE, since=mark, timeout=WAIT, match=lambda e: e["socket"] == "new.sock")
    register(kubelet.root / "device-plugins" / "kubelet.sock", RESOURCE, "new.sock")
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)


def test_both_streams_of_one_resource_are_heard(kubelet: Kubelet, servers: Servers) -> None:
    old, new = FakeDevice("a"), FakeDevice("a", "b")
    plugin(kubelet, servers, old, "old.sock")
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    plugin(kubelet, servers, new, "new.sock")
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    old.publish(*(pb.Device(ID=i, health="Healthy") for i in "abc"))
    kubelet.devices.wait(RESOURCE, allocatable=3, timeout=WAIT)


def test_a_registration_that_fails_takes_the_one_before_off_the_map(kubelet: Kubelet, servers: Servers) -> None:
    """After that the end of the old stream makes no device unhealthy: the kubelet has nobody to disconnect."""

    class Broken(FakeDevice):
        def GetDevicePluginOptions(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.DevicePluginOptions:
            context.abort(grpc.StatusCode.INTERNAL, "broken")

    old = FakeDevice("a")
    plugin(kubelet, servers, old, "old.sock")
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    with pytest.raises(grpc.RpcError):
        plugin(kubelet, servers, Broken("b"), "broken.sock")
    old.end()
    kubelet.journal.wait("stream_ended", RESOURCE, timeout=WAIT)
    assert kubelet.devices.amount(RESOURCE) == Amount(1, 1)


def test_a_restart_removes_sockets_and_keeps_the_rest(kubelet: Kubelet, servers: Servers) -> None:
    folder = kubelet.root / "device-plugins"
    plugin(kubelet, servers, FakeDevice("a"))
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    (folder / "note.txt").write_text("kept")
    (folder / "sub").mkdir()
    kubelet.stop()
    assert (folder / "kubelet.sock").is_socket()  # nobody said goodbye
    assert (folder / "widget.sock").is_socket()
    kubelet.start()
    assert sorted(p.name for p in folder.iterdir()) == [
        "kubelet.sock",
        "kubelet_internal_checkpoint",
        "note.txt",
        "sub",
    ]
    assert kubelet.devices.amount(RESOURCE) == Amount(0, 0)


def test_a_plugin_that_registers_after_a_restart_has_its_capacity_again(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    kubelet.devices.allocate("pod", RESOURCE, 1)
    kubelet.restart()
    with pytest.raises(AdmissionError, match="no healthy devices present"):
        kubelet.devices.allocate("other", RESOURCE, 1)
    plugin(kubelet, servers, fake, "again.sock")
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    with pytest.raises(AdmissionError, match="Requested: 1, Available: 0"):
        kubelet.devices.allocate("other", RESOURCE, 1)
    assert kubelet.devices.allocate("pod", RESOURCE, 1).devices == ("a",)
    assert fake.calls == [("allocate", ("a",))]  # the restarted container had it already: no second Allocate


def test_a_resource_that_does_not_come_back_leaves_after_the_grace_period(kubelet: Kubelet, servers: Servers) -> None:
    plugin(kubelet, servers, FakeDevice("a"))
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    kubelet.restart()
    kubelet.devices.wait(RESOURCE, absent=True, timeout=WAIT)


def test_a_plugin_sees_its_stream_break_when_the_kubelet_goes(kubelet: Kubelet, servers: Servers) -> None:
    broken = threading.Event()

    class Watching(FakeDevice):
        def _wake(self) -> None:
            broken.set()
            super()._wake()

    plugin(kubelet, servers, Watching("a"))
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    kubelet.stop()
    assert broken.wait(WAIT)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(kubelet.root / "device-plugins" / "kubelet.sock"))


def test_allocate_asks_for_a_preference_and_calls_in_order(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a", "b", "c", preferred=True, pre_start=True)
    fake.prefer = ("c", "no-such-device")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=3, timeout=WAIT)
    given = kubelet.devices.allocate("pod", RESOURCE, 2)
    assert given.devices == ("a", "c")
    assert given.response.envs == {"DEVICES": "a,c"}
    assert fake.calls == [("preferred", ("a", "b", "c")), ("allocate", ("a", "c")), ("prestart", ("a", "c"))]
    kubelet.devices.free("pod")
    assert kubelet.devices.allocate("next", RESOURCE, 3).devices == ("a", "b", "c")


def test_a_preference_is_not_asked_where_it_was_not_announced(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a", "b")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    kubelet.devices.allocate("pod", RESOURCE, 1)
    assert [name for name, _ in fake.calls] == ["allocate"]


def test_a_refused_allocation_leaves_the_devices_free(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a")
    fake.refuse = "not today"
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    with pytest.raises(AdmissionError, match="not today"):
        kubelet.devices.allocate("pod", RESOURCE, 1)
    fake.refuse = ""
    assert kubelet.devices.allocate("pod", RESOURCE, 1).devices == ("a",)


def test_a_container_is_not_restarted_on_a_device_that_turned_unhealthy(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a", "b")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    assert kubelet.devices.allocate("pod", RESOURCE, 1).devices == ("a",)
    fake.publish(pb.Device(ID="a", health="Unhealthy"), pb.Device(ID="b", health="Healthy"))
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    with pytest.raises(AdmissionError, match="previously allocated devices are no longer healthy"):
        kubelet.devices.allocate("pod", RESOURCE, 1)


def test_a_list_above_four_mebibytes_ends_the_stream(kubelet: Kubelet, servers: Servers) -> None:
    fake = FakeDevice("a")
    plugin(kubelet, servers, fake)
    kubelet.devices.wait(RESOURCE, allocatable=1, timeout=WAIT)
    fake.publish(*(pb.Device(ID=f"{i:0>60}", health="Healthy") for i in range(70_000)))
    kubelet.devices.wait(RESOURCE, capacity=1, allocatable=0, timeout=WAIT)
    ended = kubelet.journal.wait("stream_ended", RESOURCE, timeout=WAIT)
    assert "ResourceExhausted" in ended["reason"]


def test_a_device_plugin_may_come_through_the_watcher(kubelet: Kubelet, servers: Servers) -> None:
    """Endpoint "": the registration socket serves the plugin too."""
    fake = FakeDevice("a", "b")
    registration = FakeRegistration("DevicePlugin", RESOURCE, "", ("v1beta1",))
    path = kubelet.root / "plugins_registry" / "widget-reg.sock"
    servers.serve(path, registration.add, fake.add)
    kubelet.devices.wait(RESOURCE, allocatable=2, timeout=WAIT)
    kubelet.wait_registered(RESOURCE, timeout=WAIT)
    path.unlink()
    kubelet.devices.wait(RESOURCE, capacity=2, allocatable=0, timeout=WAIT)
    kubelet.journal.wait("unregister", RESOURCE, timeout=WAIT)
