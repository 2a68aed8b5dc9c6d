"""CSI Controller, health, and one volume by id: thin adapter. No locks: what is told is a snapshot anyway."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.csi import requests
from plugins.csi.health import Finding, Health
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes


class ControllerHealth:
    """The methods of ControllerServicer that look at volumes from the side of the storage."""

    _volumes: Volumes
    _health: Health

    @translated
    def ControllerGetVolumeHealth(
        self, request: pb.ControllerGetVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.ControllerGetVolumeHealthResponse:
        """What is wrong with one volume, and with the pool that it lies in."""
        volume = self._volumes.get(requests.volume_id(request.volume_id))
        found = [*self._health.of_storage(), *self._health.of_image(volume)]
        return pb.ControllerGetVolumeHealthResponse(volume_health=message(volume.id, found))

    @translated
    def ControllerListVolumeHealth(
        self, request: pb.ControllerListVolumeHealthRequest, context: grpc.ServicerContext
    ) -> pb.ControllerListVolumeHealthResponse:
        """The same of all volumes, page by page in the order of their creation."""
        page, next_token = self._volumes.page(request.starting_token, request.max_entries)
        pool = self._health.of_storage()
        entries = [message(volume.id, [*pool, *self._health.of_image(volume)]) for volume in page]
        return pb.ControllerListVolumeHealthResponse(entries=entries, next_token=next_token)


def message(volume_id: str, found: Iterable[Finding]) -> pb.VolumeHealth:
    """Findings as CSI says them."""
    entries = [
        pb.VolumeHealth.VolumeHealthEntry(
            status=pb.VolumeHealthErrorType.ValueType(f.severity), reason=f.reason, message=f.message
        )
        for f in found
    ]
    return pb.VolumeHealth(volume_id=volume_id, health_statuses=entries)
