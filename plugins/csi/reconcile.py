"""Start-up: what was announced is finished or undone, and what a killed call left attached is let go.

Nothing is deleted that a record or an intent does not explain: an image without a record gets a line in the log.
"""

from __future__ import annotations

import os

from plugins.core import log
from plugins.core.errors import FailedPrecondition
from plugins.core.store import Intent
from plugins.csi import expansion, ids
from plugins.csi.host import filesystems
from plugins.csi.pool import devices
from plugins.csi.pool.devices import Device
from plugins.csi.pool.loop import LoopStatus
from plugins.csi.pool.pool import Pool
from plugins.csi.publishing import VIEW
from plugins.csi.records import Records
from plugins.csi.staging import FORMAT, IMAGE
from plugins.csi.volumes import CREATE, DELETE

logger = log.get("csi.reconcile")


def settle(records: Records, pool: Pool) -> None:
    """Finish or undo every open intent, oldest first."""
    actions = {CREATE: _undo_create, DELETE: _finish_delete, FORMAT: _settle_format}
    actions |= {expansion.EXPAND: expansion.finish, expansion.GROW: expansion.clear}
    for intent in records.intents():
        logger.info("settling what a crash interrupted", kind=intent.kind, volume_id=intent.key)
        actions[intent.kind](records, pool, intent)
    _name_images(records, pool)


def let_go(records: Records, pool: Pool) -> None:
    """Detach devices of this pool's images that no record explains, unless somebody has them mounted.

    The image is looked up in this pool's folder: another daemon's pool may lie on the same filesystem.
    """
    images = pool.images.inodes()
    staged = {found.token for s in records.stagings() if (found := ids.parse(s.volume_id))}
    attached = list(devices.scan())
    ours = {device.rdev for device, status in attached if status.device == pool.dev and status.inode in images}
    shown = _published_devices(records)
    for device, status in attached:
        if _is_view(status) and status.rdev in ours and device.rdev not in shown:
            _detach(pool, device, status)
    for device, status in attached:
        token = status.name.removeprefix(IMAGE)
        if device.rdev in ours and status.name.startswith(IMAGE) and token not in staged:
            _detach(pool, device, status)


def report(records: Records, pool: Pool) -> None:
    """Say what does not fit together; a person has to look."""
    known, found = records.tokens(), pool.images.tokens()
    for token in sorted(found - known):
        logger.warning("an image without a volume", image=str(pool.path / "volumes" / f"{token}.img"))
    for token in sorted(known - found):
        logger.error("a volume without its image", token=token)


def _name_images(records: Records, pool: Pool) -> None:
    """A new image that is recorded gets the name that it lacks; what else is hidden was never finished."""
    known, named = records.tokens(), pool.images.tokens()
    for token in pool.images.hidden_tokens():
        if token in known - named:
            pool.images.name(token)
        else:
            pool.images.remove_hidden(token)


def _undo_create(records: Records, pool: Pool, intent: Intent) -> None:
    pool.images.remove(intent.data["token"])
    records.settle(intent)


def _finish_delete(records: Records, pool: Pool, intent: Intent) -> None:
    pool.images.remove(intent.data["token"])
    records.remove(intent.key, intent)


def _settle_format(records: Records, pool: Pool, intent: Intent) -> None:
    """The new image took the name or it did not; the image itself says which."""
    token = intent.data["token"]
    with pool.opened(token) as image:
        found = filesystems.detect(image)
    pool.images.remove_hidden(token)
    if found == intent.data["fs"]:
        records.retype(intent.key, found, intent)
    else:
        records.settle(intent)


def _published_devices(records: Records) -> set[int]:
    """Numbers of the devices that are bound at recorded targets."""
    found = set()
    for publication in records.all_publications():
        try:
            found.add(os.lstat(publication.target).st_rdev)
        except OSError:
            continue  # not there any more: nothing is bound there
    return found


def _is_view(status: LoopStatus) -> bool:
    return status.name.startswith(VIEW)


def _detach(pool: Pool, device: Device, status: LoopStatus) -> None:
    key = None if _is_view(status) else (status.device, status.inode)
    try:
        pool.devices.detach(device, key, wait=False)
    except FailedPrecondition:
        logger.warning("a device that no record explains is in use and stays", device=device.path, name=status.name)
    else:
        logger.info("let go of a device that a killed call left attached", device=device.path, name=status.name)
