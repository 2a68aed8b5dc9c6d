"""The kubelet's end of one device plugin: a connection, its options, its stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import grpc

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.lab.channels import Deadline, dial, reason
from plugins.lab.devicestate import DeviceInfo
from plugins.lab.errors import AdmissionError, LabError


class DeviceClient:
    """One connection to one plugin socket for one resource. The kubelet never dials a second time by itself."""

    def __init__(self, resource: str, socket: Path) -> None:
        self.resource = resource
        self.socket = socket
        self.options = pb.DevicePluginOptions()
        self.stopped = False
        self._channel: grpc.Channel | None = None
        self._stub: rpc.DevicePluginStub | None = None

    def connect(self, dial_timeout: float, deadline: Deadline) -> None:
        """Dial and ask for the options. Only the caller of Register limits the second step.

        Raises:
            LabError: what the kubelet answers to Register.
        """
        left = deadline.left(dial_timeout)
        self._channel = dial(self.socket, timeout=dial_timeout if left is None else left)
        self._stub = rpc.DevicePluginStub(self._channel)
        try:
            self.options = self._stub.GetDevicePluginOptions(pb.Empty(), timeout=deadline.left())
        except grpc.RpcError as error:
            raise LabError(f"failed to get device plugin options: {reason(error)}") from error

    def watch(self, on_list: Callable[[list[DeviceInfo]], None]) -> str:
        """Read ListAndWatch until it ends, for whatever reason; returns the reason."""
        assert self._stub is not None
        try:
            for message in self._stub.ListAndWatch(pb.Empty()):
                on_list([_device(d) for d in message.devices])
        except grpc.RpcError as error:
            return reason(error)
        except ValueError as error:  # the channel was closed before the call began
            return str(error)
        return "EOF"

    def disconnect(self) -> None:
        """Close the connection; a stream on it ends."""
        self.stopped = True
        if self._channel is not None:
            self._channel.close()

    def preferred(self, available: Iterable[str], must: Iterable[str], size: int) -> frozenset[str]:
        """GetPreferredAllocation, without a deadline: a plugin that hangs blocks the admission of the pod."""
        request = pb.PreferredAllocationRequest(
            container_requests=[
                pb.ContainerPreferredAllocationRequest(
                    available_deviceIDs=sorted(available), must_include_deviceIDs=sorted(must), allocation_size=size
                )
            ]
        )
        try:
            reply = self._ready().GetPreferredAllocation(request)
        except grpc.RpcError as error:
            raise AdmissionError(
                f"device plugin GetPreferredAllocation rpc failed with err: {reason(error)}"
            ) from error
        return frozenset(reply.container_responses[0].deviceIDs) if reply.container_responses else frozenset()

    def allocate(self, devices: Iterable[str]) -> pb.ContainerAllocateResponse:
        """Allocate for one container, without a deadline."""
        one = pb.ContainerAllocateRequest(devices_ids=sorted(devices))
        try:
            reply = self._ready().Allocate(pb.AllocateRequest(container_requests=[one]))
        except grpc.RpcError as error:
            raise AdmissionError(reason(error)) from error
        if not reply.container_responses:
            raise AdmissionError(f"no containers return in allocation response {reply}")
        return reply.container_responses[0]

    def pre_start(self, devices: Iterable[str], timeout: float) -> None:
        """PreStartContainer."""
        try:
            self._ready().PreStartContainer(pb.PreStartContainerRequest(devices_ids=sorted(devices)), timeout=timeout)
        except grpc.RpcError as error:
            raise AdmissionError(f"device plugin PreStartContainer rpc failed with err: {reason(error)}") from error

    def _ready(self) -> rpc.DevicePluginStub:
        if self.stopped or self._stub is None:
            raise AdmissionError(f"endpoint {self.resource} has been stopped")
        return self._stub


def _device(device: pb.Device) -> DeviceInfo:
    nodes = tuple(node.ID for node in device.topology.nodes) if device.HasField("topology") else ()
    return DeviceInfo(device.ID, device.health == "Healthy", nodes)
