"""What external-provisioner does beside the driver on its node: a claim becomes a volume, and goes again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.lab.channels import reason
from plugins.lab.csinode import CsiDrivers
from plugins.lab.errors import LabError
from plugins.lab.timings import KubeletTimings

_SERVICE = pb.PluginCapability.Service
_CONTROLLER = pb.ControllerServiceCapability.RPC
_ACCESS = pb.VolumeCapability.AccessMode
_Mode: TypeAlias = "pb.VolumeCapability.AccessMode.Mode.ValueType"


@dataclass(frozen=True)
class Claim:
    """What a user asks for, with what the storage class adds.

    size: bytes.
    block: a raw device instead of a filesystem.
    fs_type, mount_options: of the filesystem; "" leaves the choice to the driver.
    parameters: of the storage class.
    """

    driver: str
    size: int
    block: bool = False
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()
    read_only: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Volume:
    """A PersistentVolume. name: its object's; handle: the driver's volume_id; capacity in bytes."""

    name: str
    handle: str
    capacity: int
    claim: Claim
    context: Mapping[str, str] = field(default_factory=dict)
    topology: tuple[Mapping[str, str], ...] = ()


class Provisioner:
    """CreateVolume and DeleteVolume, with the name, topology and checks that the sidecar uses on a node (strict
    topology, node deployment)."""

    def __init__(self, drivers: CsiDrivers, timings: KubeletTimings) -> None:
        self._drivers = drivers
        self._timings = timings

    def create(self, claim: Claim, *, name: str = "") -> Volume:
        """Provision a volume. The same name again is a retry: the driver must answer with the same volume.

        Raises:
            LabError: the driver refused, cannot provision, or made something else than was asked for.
        """
        name = name or f"pvc-{uuid.uuid4()}"
        with self._drivers.connect(claim.driver) as connection:
            segments, mode = self._ask(claim.driver, connection)
            request = _request(claim, name, segments, mode)
            try:
                made = rpc.ControllerStub(connection).CreateVolume(request, timeout=self._timings.provision).volume
            except grpc.RpcError as error:
                raise LabError(f"failed to provision volume: {reason(error)}") from error
        topology = tuple(dict(t.segments) for t in made.accessible_topology)
        volume = Volume(
            name, made.volume_id, made.capacity_bytes or claim.size, claim, dict(made.volume_context), topology
        )
        if volume.capacity < claim.size:
            self.delete(volume)
            raise LabError(f"created volume capacity {volume.capacity} less than requested capacity {claim.size}")
        return volume

    def delete(self, volume: Volume) -> None:
        """Delete a volume; repeating it must succeed."""
        request = pb.DeleteVolumeRequest(volume_id=volume.handle)
        with self._drivers.connect(volume.claim.driver) as connection:
            try:
                rpc.ControllerStub(connection).DeleteVolume(request, timeout=self._timings.provision)
            except grpc.RpcError as error:
                raise LabError(f"failed to delete volume: {reason(error)}") from error

    def _ask(self, driver: str, connection: grpc.Channel) -> tuple[Mapping[str, str], _Mode]:
        """The node's segments where the driver cares, and its word for ReadWriteOnce.

        Raises:
            LabError: it does not provision at all.
        """
        try:
            plugin = rpc.IdentityStub(connection).GetPluginCapabilities(
                pb.GetPluginCapabilitiesRequest(), timeout=self._timings.provision
            )
            control = rpc.ControllerStub(connection).ControllerGetCapabilities(
                pb.ControllerGetCapabilitiesRequest(), timeout=self._timings.provision
            )
        except grpc.RpcError as error:
            raise LabError(f"capabilities of {driver}: {reason(error)}") from error
        services = {c.service.type for c in plugin.capabilities if c.HasField("service")}
        calls = {c.rpc.type for c in control.capabilities}
        if _SERVICE.CONTROLLER_SERVICE not in services or _CONTROLLER.CREATE_DELETE_VOLUME not in calls:
            raise LabError(f"CSI driver {driver} does not support dynamic provisioning")
        entry = self._drivers.node.drivers.get(driver)
        many = _CONTROLLER.SINGLE_NODE_MULTI_WRITER in calls
        mode = _ACCESS.SINGLE_NODE_MULTI_WRITER if many else _ACCESS.SINGLE_NODE_WRITER
        return entry.topology if entry and _SERVICE.VOLUME_ACCESSIBILITY_CONSTRAINTS in services else {}, mode


def _request(claim: Claim, name: str, segments: Mapping[str, str], mode: _Mode) -> pb.CreateVolumeRequest:
    here = [pb.Topology(segments=segments)] if segments else []
    return pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=claim.size),
        volume_capabilities=[capability(claim, mode)],
        parameters=claim.parameters,
        accessibility_requirements=pb.TopologyRequirement(requisite=here, preferred=here) if here else None,
    )


def capability(claim: Claim, mode: _Mode) -> pb.VolumeCapability:
    """The VolumeCapability that goes with a claim."""
    access = pb.VolumeCapability.AccessMode(mode=mode)
    if claim.block:
        return pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume(), access_mode=access)
    mount = pb.VolumeCapability.MountVolume(fs_type=claim.fs_type, mount_flags=claim.mount_options)
    return pb.VolumeCapability(mount=mount, access_mode=access)
