"""Which of the free devices to take: the answer to GetPreferredAllocation. Pure, and only ever a hint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from plugins.core.errors import InvalidArgument
from plugins.device.inventory import Snapshot

Key = tuple[int, int, int, str]


def prefer(available: Sequence[str], must: Sequence[str], size: int, snapshot: Snapshot) -> list[str]:
    """The ids to take, those of `must` among them.

    A container never gets two shares of one device while another is free. Devices of as few NUMA nodes as possible
    are taken together ("packed": from the fullest devices and the NUMA node with least room to spare; "spread": from
    the emptiest devices and the node with most room). Among equals the lower id wins, so that the answer is stable.

    Raises:
        InvalidArgument: the request contradicts itself.
    """
    free, chosen = dict.fromkeys(available), list(dict.fromkeys(must))
    _check(free, chosen, size, snapshot)
    fixed = set(chosen)
    pool = sorted(unit_id for unit_id in free if unit_id not in fixed)
    packed = snapshot.rule.preference == "packed"
    order = _node_order(
        [_numa(u, snapshot) for u in chosen], [_numa(u, snapshot) for u in pool], size - len(chosen), packed
    )
    room = Counter(_physical(unit_id, snapshot) for unit_id in free)
    used = Counter(_physical(unit_id, snapshot) for unit_id in chosen)
    keys: list[Key] = []
    for unit_id in pool:
        device = _physical(unit_id, snapshot)
        # The first free share of every device comes before the second of any.
        keys.append((used[device], order[_numa(unit_id, snapshot)], room[device] if packed else -room[device], unit_id))
        used[device] += 1
    return chosen + [key[3] for key in sorted(keys)[: size - len(chosen)]]


def _check(free: dict[str, None], must: Sequence[str], size: int, snapshot: Snapshot) -> None:
    name = snapshot.rule.full_name
    if size < 0 or len(must) > size or size > len(free):
        raise InvalidArgument(f"{name}: {size} devices with {len(must)} fixed cannot be chosen from {len(free)}")
    missing = [unit_id for unit_id in must if unit_id not in free]
    if missing:
        raise InvalidArgument(f"{name}: device {missing[0]!r} has to be included but is not available")


def _node_order(fixed: Sequence[int], pool: Sequence[int], need: int, packed: bool) -> dict[int, int]:
    """NUMA nodes from best to worst: those already used, then those that can take all, then the largest."""
    room = Counter(pool)

    def key(node: int) -> tuple[bool, bool, int, int]:
        fits = room[node] >= need
        return (node not in fixed, not fits, room[node] if packed and fits else -room[node], node)

    return {node: rank for rank, node in enumerate(sorted({*fixed, *pool}, key=key))}


def _physical(unit_id: str, snapshot: Snapshot) -> str:
    unit = snapshot.units.get(unit_id)
    return unit.device.sys_path if unit is not None else unit_id


def _numa(unit_id: str, snapshot: Snapshot) -> int:
    unit = snapshot.units.get(unit_id)
    return -1 if unit is None or unit.numa is None else unit.numa
