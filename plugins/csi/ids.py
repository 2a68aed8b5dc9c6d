"""Ids of volumes, snapshots and groups: `vol-<20 hexadecimal digits>.<node>`, `snap-...`, `group-...`.

The node is part of an id, so that no node answers for another's. CSI allows 128 bytes. The token is random: a volume
that is made again under an old name is another volume.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

VOLUME, SNAPSHOT, GROUP = "vol", "snap", "group"

_TOKEN_BYTES = 10
_ID = re.compile(rf"(({VOLUME}|{SNAPSHOT}|{GROUP})-[0-9a-f]{{20}})\.([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)")
MAX_NODE = 128 - len("group-.") - 2 * _TOKEN_BYTES


@dataclass(frozen=True)
class VolumeId:
    """token: unique; names the image in the pool. node: where the volume, snapshot or group lies."""

    token: str
    node: str

    def __str__(self) -> str:
        return f"{self.token}.{self.node}"


def new(node: str, kind: str = VOLUME) -> VolumeId:
    """An id that nothing has had."""
    return VolumeId(f"{kind}-{os.urandom(_TOKEN_BYTES).hex()}", node)


def parse(text: str, kind: str = VOLUME) -> VolumeId | None:
    """The parts of an id; None where no release of ours can have made it for something of this kind."""
    match = _ID.fullmatch(text) if len(text) <= 128 else None
    return VolumeId(match.group(1), match.group(3)) if match and match.group(2) == kind else None


def elsewhere(text: str, kind: str, node: str) -> str:
    """The other node that something with this id lies on; "" where the id does not say so."""
    known = parse(text, kind)
    return known.node if known and known.node != node else ""
