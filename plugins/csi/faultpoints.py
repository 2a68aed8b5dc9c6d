"""Every named fault point of this daemon, by operation: what the tests kill it at. See `core.faults`."""

from __future__ import annotations

_IMAGE = ("hidden", "filled", "named", "durable")

CREATE = tuple(f"csi.create.{step}" for step in ("announced", "hidden", "filled", "durable", "recorded", "named"))
CREATE_THICK = (*CREATE[:2], "csi.create.kept", *CREATE[2:])
DELETE = ("csi.delete.announced", "csi.delete.removed", "csi.delete.recorded")
STAGE_BLOCK = ("csi.stage.attached", "csi.stage.recorded")
STAGE_MOUNT = ("csi.stage.attached", "csi.stage.mounted", "csi.stage.recorded")
FORMAT = ("csi.format.announced", *(f"csi.format.{step}" for step in _IMAGE), "csi.format.recorded")
PUBLISH = ("csi.publish.target", "csi.publish.bound", "csi.publish.recorded")
PUBLISH_VIEW = ("csi.publish.target", "csi.publish.view", "csi.publish.bound", "csi.publish.recorded")
UNPUBLISH = ("csi.unpublish.unmounted", "csi.unpublish.removed", "csi.unpublish.recorded")
UNPUBLISH_VIEW = ("csi.unpublish.hidden", *UNPUBLISH)
UNSTAGE_BLOCK = ("csi.unstage.unmounted", "csi.unstage.detached", "csi.unstage.recorded")
UNSTAGE_MOUNT = UNSTAGE_BLOCK
EXPAND = ("csi.expand.announced", "csi.expand.longer", "csi.expand.durable", "csi.expand.recorded")
EXPAND_BLOCK = (*EXPAND, "csi.expand.device")
EXPAND_MOUNT = (*EXPAND_BLOCK, "csi.expand.filesystem")
MODIFY = ("csi.modify.recorded", "csi.modify.applied")
ATTACH = ("csi.attach.recorded",)
DETACH = ("csi.detach.recorded",)
GROW = ("csi.grow.copied", "csi.grow.changed", "csi.grow.named", "csi.grow.recorded")
_CUT = ("announced", "hidden", "frozen", "filled", "named", "durable", "recorded")
_GONE = ("delete.announced", "delete.removed", "delete.recorded")
SNAPSHOT = tuple(f"csi.snapshot.{step}" for step in _CUT)
SNAPSHOT_DELETE = tuple(f"csi.snapshot.{step}" for step in _GONE)
GROUP = tuple(f"csi.group.{step}" for step in _CUT)
GROUP_DELETE = tuple(f"csi.group.{step}" for step in _GONE)
POOL = ("csi.pool.made", "csi.pool.attached")

ALL = frozenset(
    point
    for operation in (
        *(CREATE_THICK, DELETE, STAGE_MOUNT, FORMAT, PUBLISH_VIEW, UNPUBLISH_VIEW, UNSTAGE_MOUNT, POOL),
        *(EXPAND_MOUNT, GROW, MODIFY, ATTACH, DETACH, SNAPSHOT, SNAPSHOT_DELETE, GROUP, GROUP_DELETE),
    )
    for point in operation
)
