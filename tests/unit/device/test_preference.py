"""Preferred allocation: shares apart, NUMA nodes together, and the same answer each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument
from plugins.device.inventory import Inventory, Snapshot
from plugins.device.preference import prefer
from tests.unit.device.kit import device, pci, rules


def snapshot(numa: dict[str, int], **more: object) -> Snapshot:
    inventory = Inventory(rules({"name": "gpu", "select": [{"subsystem": "misc"}], **more}))
    inventory.replace(
        device(name, number=(10, n), parents=(pci(f"0000:{n:02x}:00.0", node),))
        for n, (name, node) in enumerate(numa.items())
    )
    return inventory.snapshot("gpu")


def ids(snapshot: Snapshot, *wanted: str) -> list[str]:
    """The ids of devices by the letter of their name; "a1" is the second share of a."""
    by_name = {u.device.sys_name: i.rpartition("-s")[0] or i for i, u in snapshot.units.items()}
    shared = snapshot.rule.shares > 1
    return [f"{by_name[w[0]]}-s{w[1:] or 0}" if shared else by_name[w[0]] for w in wanted]


FOUR = snapshot({"a": 0, "b": 1, "c": 1, "d": 0})
UNEVEN = snapshot({"a": 0, "b": 1, "c": 1, "d": 1})
SHARED = snapshot({"a": 0, "b": 0}, shares=3)
SPREAD = snapshot({"a": 0, "b": 0}, shares=3, preference="spread")


@pytest.mark.parametrize(
    ("case", "available", "must", "size", "chosen"),
    [
        (FOUR, "abcd", "", 2, "ad"),  # one NUMA node, the lower one
        (FOUR, "abcd", "b", 2, "bc"),  # the one that is in use already
        (FOUR, "abc", "", 2, "bc"),  # the one that has room for both
        (UNEVEN, "abcd", "", 1, "a"),  # packed: the node with least room to spare
        (UNEVEN, "abcd", "", 3, "bcd"),
        (FOUR, "abcd", "", 0, ""),
        (FOUR, "abcd", "abcd", 4, "abcd"),
    ],
)
def test_numa_nodes_stay_together(case: Snapshot, available: str, must: str, size: int, chosen: str) -> None:
    assert prefer(ids(case, *available), ids(case, *must), size, case) == ids(case, *chosen)


def test_spread_takes_the_numa_node_with_most_room() -> None:
    case = snapshot({"a": 0, "b": 1, "c": 1, "d": 1}, preference="spread")
    assert prefer(ids(case, *"abcd"), [], 1, case) == ids(case, "b")


def test_never_two_shares_of_one_device_while_another_is_free() -> None:
    for case in (SHARED, SPREAD):
        assert prefer(ids(case, "a0", "a1", "a2", "b2"), [], 2, case) in (ids(case, "b2", "a0"), ids(case, "a0", "b2"))
        assert prefer(ids(case, "a0", "a1", "b0"), ids(case, "a0"), 2, case) == ids(case, "a0", "b0")


def test_packed_fills_a_device_before_the_next_and_spread_does_not() -> None:
    available = ["a1", "a2", "b0", "b1", "b2"]  # one share of a is taken
    assert prefer(ids(SHARED, *available), [], 1, SHARED) == ids(SHARED, "a1")
    assert prefer(ids(SPREAD, *available), [], 1, SPREAD) == ids(SPREAD, "b0")


@pytest.mark.parametrize(("must", "size"), [("", 5), ("ab", 1), ("", -1)])
def test_a_request_that_contradicts_itself(must: str, size: int) -> None:
    with pytest.raises(InvalidArgument, match="cannot be chosen"):
        prefer(ids(FOUR, *"abcd"), ids(FOUR, *must), size, FOUR)


def test_what_has_to_be_included_has_to_be_available() -> None:
    with pytest.raises(InvalidArgument, match="is not available"):
        prefer(ids(FOUR, "a", "b"), ids(FOUR, "c"), 2, FOUR)


def test_a_device_that_went_meanwhile_is_no_error() -> None:
    assert set(prefer([*ids(FOUR, "a"), "gone"], [], 2, FOUR)) == {"gone", *ids(FOUR, "a")}


@given(st.data())
def test_the_answer_is_a_choice_from_what_is_free_and_does_not_depend_on_order(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([FOUR, UNEVEN, SHARED, SPREAD]))
    available = data.draw(st.lists(st.sampled_from(sorted(case.units)), unique=True))
    must = data.draw(st.lists(st.sampled_from(available), unique=True)) if available else []
    size = data.draw(st.integers(len(must), len(available)))
    chosen = prefer(available, must, size, case)
    assert len(chosen) == len(set(chosen)) == size
    assert set(must) <= set(chosen) <= set(available)
    assert prefer(data.draw(st.permutations(available)), must, size, case) == chosen
    physical = {u: case.units[u].device.sys_path for u in available}
    used = [physical[u] for u in chosen]
    if set(physical.values()) - set(used):  # a device is free still: no other one was taken twice, but where it had to
        forced = [physical[u] for u in must]
        assert all(used.count(path) <= max(1, forced.count(path)) for path in used)
