"""Start-up, before anything else: what a killed cut froze goes on, and what it left half made is removed."""

from __future__ import annotations

from plugins.core import log
from plugins.core.errors import DataLoss
from plugins.core.store import Intent
from plugins.csi import cutting, groups, snapshots
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.snapshot_records import SnapshotRecords

logger = log.get("csi.reconcile")


def settle(records: SnapshotRecords, volumes: Records, pool: Pool) -> None:
    """Undo every cut that was not recorded, finish every removal."""
    for intent in volumes.intents():
        if intent.kind in (snapshots.CREATE, groups.CREATE):
            _undo(records, volumes, pool, intent)
        elif intent.kind == snapshots.DELETE:
            _remove(pool, intent)
            records.remove(intent.key, intent)
        elif intent.kind == groups.DELETE:
            _remove(pool, intent)
            records.remove_group(intent.key, intent)


def report(records: SnapshotRecords, pool: Pool) -> None:
    """Say what does not fit together; a person has to look."""
    known, found = records.tokens(), pool.snapshots.tokens()
    for token in sorted(found - known):
        logger.warning("an image without a snapshot", image=str(pool.path / "snapshots" / f"{token}.img"))
    for token in sorted(known - found):
        logger.error("a snapshot without its image", token=token)


def _undo(records: SnapshotRecords, volumes: Records, pool: Pool, intent: Intent) -> None:
    logger.info("undoing a cut that a crash interrupted", key=intent.key)
    for volume_id in intent.data["volumes"]:
        try:
            cutting.thaw(volumes, pool, volume_id)
        except (DataLoss, OSError) as error:  # its image is gone: then nothing of it can be mounted
            logger.warning("not thawed", volume_id=volume_id, reason=str(error))
    snapshots.undo_images(records, pool, intent)


def _remove(pool: Pool, intent: Intent) -> None:
    logger.info("finishing a removal that a crash interrupted", key=intent.key)
    for token in intent.data["tokens"]:
        pool.snapshots.remove(token)
