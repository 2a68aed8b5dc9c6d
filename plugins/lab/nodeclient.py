"""The kubelet's calls to the Node service of a CSI driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.lab.channels import code, reason
from plugins.lab.errors import LabError
from plugins.lab.provisioner import Volume, capability

R = TypeVar("R")
_CAPABILITY = pb.NodeServiceCapability.RPC
_MODE = pb.VolumeCapability.AccessMode

MAY_BE_UNDER_WAY = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)


class VolumeError(LabError):
    """A call to the driver failed. final: it is certain that nothing is under way any more."""

    def __init__(self, call: str, error: grpc.RpcError) -> None:
        super().__init__(f"{call} failed: {reason(error)}")
        self.code = code(error)
        self.final = self.code not in MAY_BE_UNDER_WAY


class NodeClient:
    """One operation's connection; every method raises VolumeError."""

    def __init__(self, connection: grpc.Channel, timeout: float) -> None:
        self._stub = rpc.NodeStub(connection)
        self._timeout = timeout
        reply = self._call(
            "NodeGetCapabilities",
            lambda: self._stub.NodeGetCapabilities(pb.NodeGetCapabilitiesRequest(), timeout=timeout),
        )
        self._has = {c.rpc.type for c in reply.capabilities}

    @property
    def stages(self) -> bool:
        """Whether the driver has a staging step."""
        return _CAPABILITY.STAGE_UNSTAGE_VOLUME in self._has

    def stage(self, volume: Volume, path: Path) -> None:
        """NodeStageVolume."""
        request = pb.NodeStageVolumeRequest(
            volume_id=volume.handle,
            staging_target_path=str(path),
            volume_capability=self._capability(volume),
            volume_context=volume.context,
        )
        self._call("NodeStageVolume", lambda: self._stub.NodeStageVolume(request, timeout=self._timeout))

    def unstage(self, volume: Volume, path: Path) -> None:
        """NodeUnstageVolume."""
        request = pb.NodeUnstageVolumeRequest(volume_id=volume.handle, staging_target_path=str(path))
        self._call("NodeUnstageVolume", lambda: self._stub.NodeUnstageVolume(request, timeout=self._timeout))

    def publish(self, volume: Volume, staging: Path, target: Path, read_only: bool, pod: Mapping[str, str]) -> None:
        """NodePublishVolume. pod: what CSIDriver.podInfoOnMount adds to the context; empty where it is off."""
        request = pb.NodePublishVolumeRequest(
            volume_id=volume.handle,
            staging_target_path=str(staging) if self.stages or volume.claim.block else "",
            target_path=str(target),
            volume_capability=self._capability(volume),
            readonly=read_only,
            volume_context={**volume.context, **pod},
        )
        self._call("NodePublishVolume", lambda: self._stub.NodePublishVolume(request, timeout=self._timeout))

    def unpublish(self, volume: Volume, target: Path) -> None:
        """NodeUnpublishVolume."""
        request = pb.NodeUnpublishVolumeRequest(volume_id=volume.handle, target_path=str(target))
        self._call("NodeUnpublishVolume", lambda: self._stub.NodeUnpublishVolume(request, timeout=self._timeout))

    def stats(self, volume: Volume, path: Path) -> pb.NodeGetVolumeStatsResponse:
        """NodeGetVolumeStats."""
        request = pb.NodeGetVolumeStatsRequest(volume_id=volume.handle, volume_path=str(path))
        return self._call("NodeGetVolumeStats", lambda: self._stub.NodeGetVolumeStats(request, timeout=self._timeout))

    def _capability(self, volume: Volume) -> pb.VolumeCapability:
        """ReadWriteOnce, in the word that the driver understands."""
        many = _CAPABILITY.SINGLE_NODE_MULTI_WRITER in self._has
        return capability(volume.claim, _MODE.SINGLE_NODE_MULTI_WRITER if many else _MODE.SINGLE_NODE_WRITER)

    @staticmethod
    def _call(name: str, call: Callable[[], R]) -> R:
        try:
            return call()
        except grpc.RpcError as error:
            raise VolumeError(name, error) from error
