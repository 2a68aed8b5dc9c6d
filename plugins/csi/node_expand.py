"""CSI Node, expansion: thin adapter."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.expansion import Expansion
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes


class NodeExpand:
    """The method of NodeServicer that grows volumes."""

    _volumes: Volumes
    _locks: KeyedLocks
    _expansion: Expansion

    @translated
    def NodeExpandVolume(
        self, request: pb.NodeExpandVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeExpandVolumeResponse:
        """A volume in use grown: its image if that is too small, then the device and the filesystem."""
        volume_id = requests.volume_id(request.volume_id)
        path = requests.path(request.volume_path, "volume_path")
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        with self._locks.hold(volume_id):
            volume = self._volumes.get(volume_id)
            self._expansion.check_path(volume, path)
            volume = self._expansion.grow(volume, required, limit)
            self._expansion.show(volume)
        return pb.NodeExpandVolumeResponse(capacity_bytes=volume.size)
