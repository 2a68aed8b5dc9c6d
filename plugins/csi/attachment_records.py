"""What is remembered of attachments: rows in, values out. The table is made by the migrations in `records`."""

from __future__ import annotations

from dataclasses import dataclass

from plugins.core.store import Row, Store
from plugins.csi.model import AccessMode


@dataclass(frozen=True)
class Attachment:
    """A volume that ControllerPublishVolume gave to this node: the only node that it can be on."""

    volume_id: str
    read_only: bool
    block: bool
    mode: AccessMode


class AttachmentRecords:
    """The table of attachments."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def attachment(self, volume_id: str) -> Attachment | None:
        """How a volume is attached."""
        row = self._store.one("SELECT * FROM attachments WHERE volume_id = ?", (volume_id,))
        return _attachment(row) if row else None

    def add(self, attachment: Attachment, limit: int) -> bool:
        """Record an attachment. False: there are `limit` of them already (0: no limit)."""
        with self._store.transaction() as db:
            count = db.execute("SELECT COUNT(*) AS number FROM attachments").fetchone()["number"]
            if limit and count >= limit:
                return False
            db.execute(
                "INSERT INTO attachments VALUES (?, ?, ?, ?)",
                (attachment.volume_id, attachment.read_only, attachment.block, int(attachment.mode)),
            )
        return True

    def remove(self, volume_id: str) -> None:
        """Forget an attachment."""
        self._store.execute("DELETE FROM attachments WHERE volume_id = ?", (volume_id,))


def _attachment(row: Row) -> Attachment:
    return Attachment(row["volume_id"], bool(row["read_only"]), bool(row["block"]), AccessMode(row["mode"]))
