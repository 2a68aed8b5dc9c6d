"""Volumes given to this node by the controller, for clusters that want an attach step (attach = true).

A volume lies on one node and needs no attaching. So the step only keeps a promise: which volumes may be staged here,
how many, and which of them for reading only.
"""

from __future__ import annotations

from plugins.core import faults, log
from plugins.core.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from plugins.csi.attachment_records import Attachment, AttachmentRecords
from plugins.csi.model import Capability, Volume
from plugins.csi.staging import Stagings, check_capability

logger = log.get("csi.attaching")


class Attachments:
    """Attach and detach, and what follows from it. Callers hold the volume's lock."""

    def __init__(self, records: AttachmentRecords, stagings: Stagings, *, node: str, limit: int, on: bool) -> None:
        """limit: of volumes on this node, 0 for none. on: whether there is an attach step at all."""
        self._records = records
        self._stagings = stagings
        self._node = node
        self._limit = limit
        self.on = on

    def attach(self, volume: Volume, node: str, capability: Capability, read_only: bool) -> None:
        """Give a volume to a node.

        Raises:
            NotFound: there is no such node, for a volume of this one.
            InvalidArgument, FailedPrecondition: the volume cannot be used like this.
            AlreadyExists: it is attached in another way.
            ResourceExhausted: the node has as many volumes as it may have.
        """
        if node != self._node:
            raise NotFound(f"node {node!r} is not known: volume {volume.id!r} lies on node {self._node!r}")
        check_capability(volume, capability)
        wanted = Attachment(volume.id, read_only or capability.read_only, capability.block, capability.mode)
        recorded = self._records.attachment(volume.id)
        if recorded and recorded != wanted:
            raise AlreadyExists(f"volume {volume.id!r} is attached to node {node!r} in another way")
        if recorded:
            return
        if not self._records.add(wanted, self._limit):
            raise ResourceExhausted(f"node {node!r} has {self._limit} volumes attached, which is its limit")
        faults.point("csi.attach.recorded")
        logger.info("volume attached", volume_id=volume.id, read_only=wanted.read_only)

    def detach(self, volume: Volume, node: str) -> None:
        """Take a volume from a node ("" for any); nothing happens where it is not attached.

        Raises:
            FailedPrecondition: it is still staged there.
        """
        if node not in ("", self._node) or self._records.attachment(volume.id) is None:
            return
        self._stagings.check_unused(volume)
        self._records.remove(volume.id)
        faults.point("csi.detach.recorded")
        logger.info("volume detached", volume_id=volume.id)

    def nodes(self, volume: Volume) -> list[str]:
        """Where a volume is attached."""
        return [self._node] if self.on and self._records.attachment(volume.id) else []

    def check_detached(self, volume: Volume) -> None:
        """Make sure that a volume may be deleted.

        Raises:
            FailedPrecondition: it is attached.
        """
        if self.nodes(volume):
            raise FailedPrecondition(f"volume {volume.id!r} is in use: it is attached to node {self._node!r}")

    def read_only(self, volume: Volume) -> bool:
        """Whether a volume may be read only, by the way it is attached.

        Raises:
            FailedPrecondition: there is an attach step, and this volume has not taken it.
        """
        if not self.on:
            return False
        attachment = self._records.attachment(volume.id)
        if attachment is None:
            raise FailedPrecondition(f"volume {volume.id!r} is not attached to node {self._node!r}")
        return attachment.read_only
