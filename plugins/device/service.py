"""v1beta1.DevicePlugin of one resource: a thin adapter. The contract names no resource, so each has its own server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import grpc

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core import metrics
from plugins.core.broadcast import Closed
from plugins.core.errors import Unimplemented
from plugins.device import allocation, nodes, preference
from plugins.device.allocation import Grant
from plugins.device.encoding import Encoder
from plugins.device.inventory import Inventory
from plugins.device.resources import Rule

_allocations = metrics.counter("device_allocations_total", "Devices handed to containers.", ("resource",))


class Watchers(Protocol):
    """Who wants to know whether the kubelet watches: a registration."""

    def stream_opened(self) -> None:
        """A ListAndWatch stream began."""

    def stream_closed(self) -> None:
        """It ended."""


class Rechecker(Protocol):
    """Who reads a device again: the source."""

    def recheck(self, sys_path: str) -> None:
        """The device is not as listed."""


class DevicePlugin(rpc.DevicePluginServicer):
    """One resource, as the kubelet sees it."""

    def __init__(self, rule: Rule, inventory: Inventory, source: Rechecker, watchers: Watchers) -> None:
        """watchers: told of each stream; no stream is the only sign of the kubelet that it let us go."""
        self._rule = rule
        self._inventory = inventory
        self._source = source
        self._watchers = watchers
        self._encoder = Encoder()

    def GetDevicePluginOptions(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.DevicePluginOptions:
        """What else the kubelet may call. It gives this call no deadline: answered from memory."""
        return pb.DevicePluginOptions(get_preferred_allocation_available=True, pre_start_required=False)

    def ListAndWatch(self, request: pb.Empty, context: grpc.ServicerContext) -> Iterator[pb.ListAndWatchResponse]:
        """The whole list now and at each change, until the kubelet goes or this daemon drains.

        A slow reader gets the newest list, not each one. An empty list is sent too: it takes the devices off the node.
        """
        subscription = self._inventory.changes(self._rule.name).subscribe()
        if not context.add_callback(subscription.cancel):
            return  # the caller is gone already
        self._watchers.stream_opened()
        sent = None
        try:
            while (snapshot := subscription.next()) is not None:
                message = self._encoder.message(snapshot)
                if message is not sent:  # else what changed is nothing that the kubelet sees
                    yield message
                sent = message
        except Closed:
            return
        finally:
            self._watchers.stream_closed()

    def Allocate(self, request: pb.AllocateRequest, context: grpc.ServicerContext) -> pb.AllocateResponse:
        """What each container gets, for the ids that the kubelet chose; all of it or an error."""
        wanted = [list(container.devices_ids) for container in request.container_requests]
        try:
            grants = allocation.plan(wanted, self._inventory.snapshot(self._rule.name), nodes.problem)
        except allocation.Unusable as error:
            self._source.recheck(error.device.sys_path)
            raise
        _allocations.inc(sum(map(len, wanted)), resource=self._rule.name)
        return pb.AllocateResponse(container_responses=map(_response, grants))

    def GetPreferredAllocation(
        self, request: pb.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> pb.PreferredAllocationResponse:
        """Which of the free devices to take; a hint."""
        snapshot = self._inventory.snapshot(self._rule.name)
        return pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(
                    deviceIDs=preference.prefer(
                        r.available_deviceIDs, r.must_include_deviceIDs, r.allocation_size, snapshot
                    )
                )
                for r in request.container_requests
            ]
        )

    def PreStartContainer(
        self, request: pb.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> pb.PreStartContainerResponse:
        """Not announced in the options, so the kubelet does not call it."""
        raise Unimplemented(f"{self._rule.full_name} needs no call before a container starts")


def _response(grant: Grant) -> pb.ContainerAllocateResponse:
    name, paths = grant.env
    return pb.ContainerAllocateResponse(
        envs={name: paths},
        devices=[
            pb.DeviceSpec(container_path=node.path, host_path=node.path, permissions=grant.permissions)
            for node in grant.nodes
        ],
    )
