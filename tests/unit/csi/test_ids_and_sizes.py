"""Volume ids and sizes: what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument, OutOfRange
from plugins.csi import ids, sizes

MIB = 1 << 20
labels = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?", fullmatch=True)


@given(labels)
def test_an_id_names_its_node(node: str) -> None:
    made = ids.new(node)
    assert ids.parse(str(made)) == made
    assert len(str(made)) <= 128


def test_ids_are_never_the_same() -> None:
    assert len({str(ids.new("node")) for _ in range(1000)}) == 1000


def test_the_longest_node_fits() -> None:
    assert ids.MAX_NODE >= 64  # a Kubernetes node is rarely called by more
    assert len(str(ids.new("n" * ids.MAX_NODE))) <= 128


@given(st.text())
def test_other_texts_are_no_ids_or_come_back_whole(text: str) -> None:
    parsed = ids.parse(text)
    assert parsed is None or str(parsed) == text


@pytest.mark.parametrize(
    "text", ["", "vol-", "vol-0.n", "vol-" + "0" * 20, "vol-" + "0" * 20 + ".", "vol-" + "0" * 20 + ".n/"]
)
def test_what_is_no_id(text: str) -> None:
    assert ids.parse(text) is None


amounts = st.integers(min_value=0, max_value=1 << 62)


@given(amounts, amounts, st.sampled_from([4096, 16 * MIB, 300 * MIB]))
def test_a_planned_size_is_in_the_range_and_in_whole_blocks(required: int, limit: int, minimum: int) -> None:
    try:
        size = sizes.plan(required, limit, minimum=minimum, default=1 << 30)
    except OutOfRange:
        # There must be no size that would have done.
        lowest = -(-max(required, minimum) // 4096) * 4096
        assert lowest > (limit or sizes.LARGEST)
        return
    assert size % 4096 == 0
    assert size >= max(required, minimum)
    assert not limit or size <= limit


@pytest.mark.parametrize(
    ("required", "limit", "size"),
    [
        (0, 0, 1 << 30),
        (1, 0, 16 * MIB),
        (64 * MIB, 64 * MIB, 64 * MIB),
        (64 * MIB + 1, 0, 65 * MIB),
        (64 * MIB + 1, 64 * MIB + 8192, 64 * MIB + 4096),
        (0, 100 * MIB + 5, 100 * MIB),
        (0, 5 << 30, 1 << 30),
        (1_000_000_000, 0, 954 * MIB),
    ],
)
def test_sizes_that_people_ask_for(required: int, limit: int, size: int) -> None:
    assert sizes.plan(required, limit, minimum=16 * MIB, default=1 << 30) == size


@pytest.mark.parametrize(("required", "limit"), [(-1, 0), (0, -1)])
def test_negative_sizes_are_no_sizes(required: int, limit: int) -> None:
    with pytest.raises(InvalidArgument):
        sizes.plan(required, limit, minimum=4096, default=4096)


@pytest.mark.parametrize(("required", "limit"), [(2, 1), (0, 4096), (5 * MIB, 5 * MIB), (20 * MIB + 1, 20 * MIB + 2)])
def test_ranges_without_a_size_are_said(required: int, limit: int) -> None:
    with pytest.raises(OutOfRange):
        sizes.plan(required, limit, minimum=16 * MIB, default=1 << 30)
