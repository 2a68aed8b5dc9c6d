"""CSI Identity: who we are, and what of CSI is served."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.errors import FailedPrecondition

_Service = pb.PluginCapability.Service


class Identity(rpc.IdentityServicer):
    """Answers from memory, but for Probe."""

    def __init__(self, name: str, version: str, check: Callable[[], None]) -> None:
        """check: raises OSError when volumes cannot be served (the pool's filesystem failed)."""
        self._info = pb.GetPluginInfoResponse(name=name, vendor_version=version)
        kinds = (
            _Service.CONTROLLER_SERVICE,
            _Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
            _Service.GROUP_CONTROLLER_SERVICE,
            _Service.SNAPSHOT_METADATA_SERVICE,
            _Service.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
        )
        capabilities = [pb.PluginCapability(service=_Service(type=kind)) for kind in kinds]
        online = pb.PluginCapability.VolumeExpansion(type=pb.PluginCapability.VolumeExpansion.ONLINE)
        capabilities.append(pb.PluginCapability(volume_expansion=online))
        self._capabilities = pb.GetPluginCapabilitiesResponse(capabilities=capabilities)
        self._check = check

    def GetPluginInfo(
        self, request: pb.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginInfoResponse:
        """Driver name and version."""
        return self._info

    def GetPluginCapabilities(
        self, request: pb.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginCapabilitiesResponse:
        """Which services there are."""
        return self._capabilities

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeResponse:
        """Whether volumes can be served."""
        try:
            self._check()
        except OSError as error:
            raise FailedPrecondition("the pool's filesystem has failed", detail=str(error)) from error
        response = pb.ProbeResponse()
        response.ready.value = True
        return response
