"""CSI Node, health: thin adapter. No locks: what is told is a snapshot anyway."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import requests
from plugins.csi.controller_health import message
from plugins.csi.health import Health, Severity
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes

_STORAGE = {
    Severity.DEGRADED: pb.STORAGE_DEGRADED,
    Severity.INACCESSIBLE: pb.STORAGE_UNREACHABLE,
    Severity.DATA_LOSS: pb.STORAGE_UNREACHABLE,
}


class NodeHealth:
    """The methods of NodeServicer that look at volumes where they are used, and at the pool."""

    _volumes: Volumes
    _health: Health

    @translated
    def NodeGetVolumeHealth(
        self, request: pb.NodeGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeHealthResponse:
        """What is wrong with a volume on this node."""
        volume = self._volumes.get(requests.volume_id(request.volume_id))
        found = self._health.of_use(volume, request.volume_publish_path, request.staging_target_path)
        return pb.NodeGetVolumeHealthResponse(volume_health=message(volume.id, found))

    @translated
    def NodeGetStorageHealth(
        self, request: pb.NodeGetStorageHealthRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetStorageHealthResponse:
        """What is wrong with the pool."""
        backends = [
            pb.NodeGetStorageHealthResponse.StorageBackendHealth(
                status=_STORAGE[found.severity], reason=found.reason, message=found.message
            )
            for found in self._health.of_storage()
        ]
        return pb.NodeGetStorageHealthResponse(backend_health=backends)
