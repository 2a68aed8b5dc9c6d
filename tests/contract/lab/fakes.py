"""Small hand-written plugins, good and defective, on real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc

from plugins.api.csi.v1 import csi_pb2 as csi
from plugins.api.csi.v1 import csi_pb2_grpc as csi_rpc
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as device
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as device_rpc
from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as reg
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as reg_rpc

Adder = Callable[[grpc.Server], None]


class Servers:
    """Plain gRPC servers that end with the test."""

    def __init__(self) -> None:
        self._running: list[grpc.Server] = []

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._running:
            server.stop(None).wait()

    def serve(self, path: Path, *adders: Adder) -> grpc.Server:
        """Serve at a path, bound there directly."""
        path.parent.mkdir(parents=True, exist_ok=True)
        server = grpc.server(ThreadPoolExecutor(8))
        for add in adders:
            add(server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._running.append(server)
        return server


class FakeRegistration(reg_rpc.RegistrationServicer):
    """The registration service of any plugin; remembers the kubelet's verdicts and the :authority it called with."""

    def __init__(self, kind: str, name: str, endpoint: Path | str = "", versions: tuple[str, ...] = ("1.0.0",)) -> None:
        self.info = reg.PluginInfo(type=kind, name=name, endpoint=str(endpoint), supported_versions=versions)
        self.verdicts: list[tuple[bool, str]] = []
        self.asked = 0
        self.hang = threading.Event()
        self.hang.set()  # cleared: GetInfo waits
        self.refuse_notify = False

    def add(self, server: grpc.Server) -> None:
        reg_rpc.add_RegistrationServicer_to_server(self, server)

    def GetInfo(self, request: reg.InfoRequest, context: grpc.ServicerContext) -> reg.PluginInfo:
        self.asked += 1
        self.hang.wait(10)
        return self.info

    def NotifyRegistrationStatus(
        self, request: reg.RegistrationStatus, context: grpc.ServicerContext
    ) -> reg.RegistrationStatusResponse:
        if self.refuse_notify:
            context.abort(grpc.StatusCode.INTERNAL, "no")
        self.verdicts.append((request.plugin_registered, request.error))
        return reg.RegistrationStatusResponse()


class FakeDevice(device_rpc.DevicePluginServicer):
    """A device plugin whose list the test sets."""

    def __init__(self, *ids: str, preferred: bool = False, pre_start: bool = False) -> None:
        self.options = device.DevicePluginOptions(
            get_preferred_allocation_available=preferred, pre_start_required=pre_start
        )
        self._changed = threading.Condition()
        self._lists = 0
        self._devices = [device.Device(ID=i, health="Healthy") for i in ids]
        self._ended = False
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.prefer: tuple[str, ...] = ()
        self.refuse = ""

    def add(self, server: grpc.Server) -> None:
        device_rpc.add_DevicePluginServicer_to_server(self, server)

    def publish(self, *devices: device.Device) -> None:
        with self._changed:
            self._devices = list(devices)
            self._lists += 1
            self._changed.notify_all()

    def end(self) -> None:
        """End every stream."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def GetDevicePluginOptions(
        self, request: device.Empty, context: grpc.ServicerContext
    ) -> device.DevicePluginOptions:
        return self.options

    def ListAndWatch(
        self, request: device.Empty, context: grpc.ServicerContext
    ) -> Iterator[device.ListAndWatchResponse]:
        context.add_callback(self._wake)
        seen = -1
        while (found := self._next(seen, context)) is not None:
            seen, devices = found
            yield device.ListAndWatchResponse(devices=devices)

    def _next(self, seen: int, context: grpc.ServicerContext) -> tuple[int, list[device.Device]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._lists > seen or not context.is_active())
            return None if self._ended or not context.is_active() else (self._lists, list(self._devices))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def GetPreferredAllocation(
        self, request: device.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> device.PreferredAllocationResponse:
        one = request.container_requests[0]
        self.calls.append(("preferred", tuple(one.available_deviceIDs)))
        answer = device.ContainerPreferredAllocationResponse(deviceIDs=self.prefer)
        return device.PreferredAllocationResponse(container_responses=[answer])

    def Allocate(self, request: device.AllocateRequest, context: grpc.ServicerContext) -> device.AllocateResponse:
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refuse)
        ids = tuple(request.container_requests[0].devices_ids)
        self.calls.append(("allocate", ids))
        one = device.ContainerAllocateResponse(envs={"DEVICES": ",".join(ids)})
        return device.AllocateResponse(container_responses=[one])

    def PreStartContainer(
        self, request: device.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> device.PreStartContainerResponse:
        self.calls.append(("prestart", tuple(request.devices_ids)))
        return device.PreStartContainerResponse()


def register(kubelet_sock: Path, resource: str, endpoint: str, *, version: str = "v1beta1", timeout: float = 5) -> None:
    """What a device plugin does with kubelet.sock."""
    with grpc.insecure_channel(f"unix:{kubelet_sock}") as channel:
        request = device.RegisterRequest(version=version, endpoint=endpoint, resource_name=resource)
        device_rpc.RegistrationStub(channel).Register(request, timeout=timeout, wait_for_ready=True)


class FakeCsi(csi_rpc.IdentityServicer, csi_rpc.NodeServicer, csi_rpc.ControllerServicer):
    """A CSI driver whose volumes are empty folders; no mount is made. Defects are switched on by the test."""

    def __init__(self, node_id: str = "node-1", stages: bool = True, topology: dict[str, str] | None = None) -> None:
        self.node_id = node_id
        self.stages = stages
        self.topology = topology or {}
        self.requests: list[object] = []
        self.authorities: set[str] = set()
        self.fail: dict[str, grpc.StatusCode] = {}
        self.keep_target = False

    def add(self, server: grpc.Server) -> None:
        csi_rpc.add_IdentityServicer_to_server(self, server)
        csi_rpc.add_NodeServicer_to_server(self, server)
        csi_rpc.add_ControllerServicer_to_server(self, server)

    def _seen(self, request: object, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        name = type(request).__name__.removesuffix("Request")
        if name in self.fail:
            context.abort(self.fail[name], "as the test wants")

    def GetPluginCapabilities(
        self, request: csi.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi.GetPluginCapabilitiesResponse:
        kinds = csi.PluginCapability.Service
        types = [kinds.CONTROLLER_SERVICE, kinds.VOLUME_ACCESSIBILITY_CONSTRAINTS]
        return csi.GetPluginCapabilitiesResponse(
            capabilities=[csi.PluginCapability(service=kinds(type=t)) for t in types]
        )

    def ControllerGetCapabilities(
        self, request: csi.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi.ControllerGetCapabilitiesResponse:
        rpc = csi.ControllerServiceCapability.RPC
        one = csi.ControllerServiceCapability(rpc=rpc(type=rpc.CREATE_DELETE_VOLUME))
        return csi.ControllerGetCapabilitiesResponse(capabilities=[one])

    def NodeGetInfo(self, request: csi.NodeGetInfoRequest, context: grpc.ServicerContext) -> csi.NodeGetInfoResponse:
        self._seen(request, context)
        return csi.NodeGetInfoResponse(
            node_id=self.node_id, accessible_topology=csi.Topology(segments=self.topology) if self.topology else None
        )

    def NodeGetCapabilities(
        self, request: csi.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi.NodeGetCapabilitiesResponse:
        rpc = csi.NodeServiceCapability.RPC
        one = csi.NodeServiceCapability(rpc=rpc(type=rpc.STAGE_UNSTAGE_VOLUME))
        return csi.NodeGetCapabilitiesResponse(capabilities=[one] if self.stages else [])

    def CreateVolume(self, request: csi.CreateVolumeRequest, context: grpc.ServicerContext) -> csi.CreateVolumeResponse:
        self._seen(request, context)
        size = request.capacity_range.required_bytes
        return csi.CreateVolumeResponse(volume=csi.Volume(volume_id=f"id-{request.name}", capacity_bytes=size))

    def DeleteVolume(self, request: csi.DeleteVolumeRequest, context: grpc.ServicerContext) -> csi.DeleteVolumeResponse:
        self._seen(request, context)
        return csi.DeleteVolumeResponse()

    def NodeStageVolume(
        self, request: csi.NodeStageVolumeRequest, context: grpc.ServicerContext
    ) -> csi.NodeStageVolumeResponse:
        self._seen(request, context)
        return csi.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: csi.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ) -> csi.NodeUnstageVolumeResponse:
        self._seen(request, context)
        return csi.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi.NodePublishVolumeResponse:
        self._seen(request, context)
        Path(request.target_path).mkdir()
        return csi.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi.NodeUnpublishVolumeResponse:
        self._seen(request, context)
        if not self.keep_target:
            Path(request.target_path).rmdir()
        return csi.NodeUnpublishVolumeResponse()


def csi_driver(node_id: str = "node-1", stages: bool = True, topology: dict[str, str] | None = None) -> FakeCsi:
    """A driver that serves a part of its services only."""
    return FakeCsi(node_id, stages, topology)  # type: ignore[abstract]
