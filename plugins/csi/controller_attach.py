"""CSI Controller, attaching: thin adapter."""

from __future__ import annotations

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.core.errors import InvalidArgument, Unimplemented
from plugins.core.locks import KeyedLocks
from plugins.csi import requests
from plugins.csi.attaching import Attachments
from plugins.csi.oserrors import translated
from plugins.csi.volumes import Volumes


class ControllerAttach:
    """The methods of ControllerServicer that give volumes to nodes."""

    _volumes: Volumes
    _attachments: Attachments
    _locks: KeyedLocks

    @translated
    def ControllerPublishVolume(
        self, request: pb.ControllerPublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerPublishVolumeResponse:
        """A volume given to this node."""
        self._check_on()
        volume_id = requests.volume_id(request.volume_id)
        if not request.node_id:
            raise InvalidArgument("node_id is missing")
        capability = requests.capability(request)
        with self._locks.hold(volume_id):
            volume = self._volumes.get(volume_id)
            self._attachments.attach(volume, request.node_id, capability, request.readonly)
        return pb.ControllerPublishVolumeResponse()

    @translated
    def ControllerUnpublishVolume(
        self, request: pb.ControllerUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ControllerUnpublishVolumeResponse:
        """The opposite; a volume that is not there is not attached."""
        self._check_on()
        volume_id = requests.volume_id(request.volume_id)
        with self._locks.hold(volume_id):
            volume = self._volumes.to_delete(volume_id)
            if volume:
                self._attachments.detach(volume, request.node_id)
        return pb.ControllerUnpublishVolumeResponse()

    def _check_on(self) -> None:
        if not self._attachments.on:
            raise Unimplemented("volumes of this driver need no attaching (attach = false)")
