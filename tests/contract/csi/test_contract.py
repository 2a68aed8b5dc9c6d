"""What callers rely on: names, capabilities that are kept, pages, registration, and silence about secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as registration
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as registration_rpc
from plugins.core import client
from tests.system.csi.kit import NODE, Driver, capability, refused

NAME = "local.csi.nodeplug.internal"
_Controller, _Node, _Plugin = (
    pb.ControllerServiceCapability.RPC,
    pb.NodeServiceCapability.RPC,
    pb.PluginCapability.Service,
)
ALWAYS = None

# Which capability a method comes with (CSI 1.13); ALWAYS: with the service itself.
CONTROLLER = {
    "CreateVolume": _Controller.CREATE_DELETE_VOLUME,
    "DeleteVolume": _Controller.CREATE_DELETE_VOLUME,
    "ControllerPublishVolume": _Controller.PUBLISH_UNPUBLISH_VOLUME,
    "ControllerUnpublishVolume": _Controller.PUBLISH_UNPUBLISH_VOLUME,
    "ValidateVolumeCapabilities": ALWAYS,
    "ListVolumes": _Controller.LIST_VOLUMES,
    "GetCapacity": _Controller.GET_CAPACITY,
    "ControllerGetCapabilities": ALWAYS,
    "CreateSnapshot": _Controller.CREATE_DELETE_SNAPSHOT,
    "DeleteSnapshot": _Controller.CREATE_DELETE_SNAPSHOT,
    "ListSnapshots": _Controller.LIST_SNAPSHOTS,
    "GetSnapshot": _Controller.GET_SNAPSHOT,
    "ControllerExpandVolume": _Controller.EXPAND_VOLUME,
    "ControllerGetVolume": _Controller.GET_VOLUME,
    "ControllerModifyVolume": _Controller.MODIFY_VOLUME,
    "ControllerGetVolumeHealth": _Controller.GET_VOLUME_HEALTH,
    "ControllerListVolumeHealth": _Controller.LIST_VOLUME_HEALTH,
}
NODE_METHODS = {
    "NodeStageVolume": _Node.STAGE_UNSTAGE_VOLUME,
    "NodeUnstageVolume": _Node.STAGE_UNSTAGE_VOLUME,
    "NodePublishVolume": ALWAYS,
    "NodeUnpublishVolume": ALWAYS,
    "NodeGetVolumeStats": _Node.GET_VOLUME_STATS,
    "NodeExpandVolume": _Node.EXPAND_VOLUME,
    "NodeGetCapabilities": ALWAYS,
    "NodeGetInfo": ALWAYS,
    "NodeGetVolumeHealth": _Node.GET_VOLUME_HEALTH,
    "NodeGetStorageHealth": _Node.GET_STORAGE_HEALTH,
}


def request_for(method: str) -> Any:
    """An empty request of a method."""
    return getattr(pb, f"{method}Request")()


def code_of(call: Callable[..., Any], request: Any) -> grpc.StatusCode:
    try:
        call(request, timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_name_and_version_follow_the_specification(driver: Driver) -> None:
    info = driver.identity.GetPluginInfo(pb.GetPluginInfoRequest())
    assert info.name == NAME
    assert re.fullmatch(r"[a-zA-Z][A-Za-z0-9.-]{0,61}[a-zA-Z]", info.name)
    assert info.vendor_version
    assert driver.identity.Probe(pb.ProbeRequest()).ready.value


def test_the_tables_name_every_method() -> None:
    for table, servicer in ((CONTROLLER, rpc.ControllerServicer), (NODE_METHODS, rpc.NodeServicer)):
        assert set(table) == {name for name in vars(servicer) if name[0].isupper()}


@pytest.mark.parametrize("method", [*CONTROLLER, *NODE_METHODS])
def test_what_is_advertised_is_served_and_nothing_else(driver: Driver, method: str) -> None:
    has: set[int | None]
    if method in CONTROLLER:
        stub: Any = driver.controller
        answer = driver.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
        has = {c.rpc.type for c in answer.capabilities}
    else:
        stub = driver.node
        listed = driver.node.NodeGetCapabilities(pb.NodeGetCapabilitiesRequest())
        has = {c.rpc.type for c in listed.capabilities}
    needs: int | None = {**CONTROLLER, **NODE_METHODS}[method]
    served = needs in has | {ALWAYS}
    code = code_of(getattr(stub, method), request_for(method))
    assert (code is not grpc.StatusCode.UNIMPLEMENTED) is served, code
    assert code is not grpc.StatusCode.INTERNAL


def test_topology_is_announced_and_given(driver: Driver) -> None:
    plugin = driver.identity.GetPluginCapabilities(pb.GetPluginCapabilitiesRequest())
    kinds = {c.service.type for c in plugin.capabilities if c.HasField("service")}
    assert {_Plugin.CONTROLLER_SERVICE, _Plugin.VOLUME_ACCESSIBILITY_CONSTRAINTS} <= kinds
    info = driver.node.NodeGetInfo(pb.NodeGetInfoRequest())
    assert info.node_id == NODE
    assert dict(info.accessible_topology.segments) == {f"topology.{NAME}/node": NODE}


def test_pages_of_volumes_over_the_wire(driver: Driver) -> None:
    made = [driver.create("block", f"page-{number}") for number in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = driver.controller.ListVolumes(pb.ListVolumesRequest(max_entries=2, starting_token=token))
        seen += [entry.volume.volume_id for entry in page.entries]
        token = page.next_token
        if not token:
            break
        if len(seen) == 2:
            driver.delete(made[1])  # the last of the page that its token names
    assert seen == made
    with refused(grpc.StatusCode.ABORTED):
        driver.controller.ListVolumes(pb.ListVolumesRequest(starting_token="nonsense"))
    for volume in (made[0], *made[2:]):
        driver.delete(volume)


def test_one_name_is_one_volume(driver: Driver) -> None:
    volume = driver.create("ext4", "same", 32 << 20)
    request = pb.CreateVolumeRequest(name="same", volume_capabilities=[capability("ext4")])
    request.capacity_range.required_bytes = request.capacity_range.limit_bytes = 32 << 20
    again = driver.controller.CreateVolume(request).volume
    assert (again.volume_id, again.capacity_bytes) == (volume, 32 << 20)
    request.capacity_range.required_bytes = request.capacity_range.limit_bytes = 48 << 20
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        driver.controller.CreateVolume(request)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        driver.create("xfs", "same", 32 << 20)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        driver.create("block", "same", 32 << 20)
    driver.delete(volume)


def test_the_kubelet_finds_it_and_its_verdict_counts(driver: Driver) -> None:
    socket = driver.root / "kubelet" / "plugins_registry" / f"{NAME}-reg.sock"
    with client.channel(socket) as channel:
        stub = registration_rpc.RegistrationStub(channel)
        info = stub.GetInfo(registration.InfoRequest())
        assert (info.type, info.name, info.endpoint) == ("CSIPlugin", NAME, str(driver.root / "csi.sock"))
        assert list(info.supported_versions) == ["1.0.0"]
        stub.NotifyRegistrationStatus(registration.RegistrationStatus(plugin_registered=True))


def test_secrets_are_never_written_down(driver: Driver) -> None:
    secret = "correct-horse-battery-staple"
    request = pb.CreateVolumeRequest(name="secret", volume_capabilities=[capability("ext4")], secrets={"key": secret})
    request.capacity_range.required_bytes = 16 << 20
    volume = driver.controller.CreateVolume(request).volume.volume_id
    stage = pb.NodeStageVolumeRequest(volume_id=volume, staging_target_path="relative", secrets={"key": secret})
    stage.volume_capability.CopyFrom(capability("ext4"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        driver.node.NodeStageVolume(stage)
    driver.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume, secrets={"key": secret}))
    assert driver.process is not None
    assert secret not in driver.process.text()


def test_the_registration_socket_stays_when_the_daemon_stops(driver: Driver) -> None:
    """Its removal would take the driver off CSINode at every restart."""
    driver.stop()
    assert (driver.root / "kubelet" / "plugins_registry" / f"{NAME}-reg.sock").exists()
    driver.start()
    driver.delete(driver.create("block"))
