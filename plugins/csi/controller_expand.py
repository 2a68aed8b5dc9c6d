"""CSI Controller, expansion: thin adapter."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.errors import InvalidArgument, Unimplemented
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.expansion import Expansion
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes


class ControllerExpand:
    """The methods of ControllerServicer that grow volumes. `_expansion` is None where the node service does it all."""

    _volumes: Volumes
    _locks: KeyedLocks
    _expansion: Expansion | None

    @translated
    def ControllerExpandVolume(
        self, request: pb.ControllerExpandVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerExpandVolumeResponse:
        """A volume's image grown; the node shows it."""
        if self._expansion is None:
            raise Unimplemented("volumes are grown by the node service (expansion = node)")
        volume_id = requests.volume_id(request.volume_id)
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        if not required and not limit:
            raise InvalidArgument("capacity_range is missing")
        if request.HasField("volume_capability"):
            requests.capabilities([request.volume_capability])
        with self._locks.hold(volume_id):
            volume = self._expansion.grow(self._volumes.get(volume_id), required, limit)
            needed = self._expansion.needs_node(volume)
        return pb.ControllerExpandVolumeResponse(capacity_bytes=volume.size, node_expansion_required=needed)
