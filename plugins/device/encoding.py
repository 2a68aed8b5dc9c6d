"""The kubelet's view of a list: one message for all streams, patched where the list was patched.

Making protobuf objects is what costs (5.6 us a device), so the bytes of each device are kept. Messages that are put
one after the other are one message (protobuf encoding, "Last One Wins": repeated fields are concatenated), so joining
those bytes is joining the list.
"""

from __future__ import annotations

import threading

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.core import log
from plugins.device.inventory import Snapshot, Unit

logger = log.get("device.list")

LIMIT = 4 << 20
"""Bytes that the kubelet's client takes in one message (grpc-go's default); it cuts the stream at more."""

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"


class Encoder:
    """Lists of one resource as messages."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._guard = threading.Lock()
        self._version = -1
        self._parts: dict[str, bytes] = {}
        self._bytes = b""
        self._message = pb.ListAndWatchResponse()

    def message(self, snapshot: Snapshot) -> pb.ListAndWatchResponse:
        """The whole list. The streams share the message, and it is the same object while the kubelet would see no
        difference: nobody changes it.

        A list that the kubelet cannot receive is cut: the lowest ids stay, so that it is the same ones each time.
        """
        with self._guard:
            if snapshot.version != self._version:
                self._patch(snapshot)
                self._version = snapshot.version
                joined = self._joined(snapshot)
                if joined != self._bytes:
                    self._bytes = joined
                    self._message = pb.ListAndWatchResponse.FromString(joined)
            return self._message

    def _patch(self, snapshot: Snapshot) -> None:
        if snapshot.version != self._version + 1:
            self._parts = {unit_id: _part(unit) for unit_id, unit in snapshot.units.items()}
            return
        for unit_id, unit in snapshot.delta.items():
            if unit is None:
                self._parts.pop(unit_id, None)
            else:
                self._parts[unit_id] = _part(unit)

    def _joined(self, snapshot: Snapshot) -> bytes:
        whole = b"".join(self._parts.values())
        if len(whole) <= self._limit:
            return whole
        kept, size = [], 0
        for unit_id in sorted(self._parts):
            size += len(self._parts[unit_id])
            if size > self._limit:
                break
            kept.append(self._parts[unit_id])
        logger.error(
            "the kubelet cannot take such a long list; part of it is not offered: split the resource or lower shares",
            resource=snapshot.rule.full_name,
            devices=len(self._parts),
            offered=len(kept),
            bytes=len(whole),
        )
        return b"".join(kept)


def _part(unit: Unit) -> bytes:
    device = pb.Device(ID=unit.id, health=UNHEALTHY if unit.problem else HEALTHY)
    if unit.numa is not None:
        device.topology.nodes.add(ID=unit.numa)
    return pb.ListAndWatchResponse(devices=[device]).SerializeToString()
