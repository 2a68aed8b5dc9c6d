"""CSI Controller, mutable parameters: thin adapter."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.errors import Unimplemented
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.limits import Limits
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes


class ControllerModify:
    """The method of ControllerServicer that changes a volume's class."""

    _volumes: Volumes
    _limits: Limits
    _locks: KeyedLocks

    @translated
    def ControllerModifyVolume(
        self, request: pb.ControllerModifyVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerModifyVolumeResponse:
        """Limits of a volume changed, in use too; names that are not given keep their value."""
        if not self._limits.available:
            raise Unimplemented(f"volumes cannot be modified on this node: {self._limits.reason}")
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id):
            self._limits.modify(self._volumes.get(volume_id), dict(request.mutable_parameters))
        return pb.ControllerModifyVolumeResponse()
