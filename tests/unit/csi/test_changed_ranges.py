"""Two maps of blocks walked together, against a model that looks at every block by itself."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from plugins.csi.pool import extents
from plugins.csi.pool.extents import Extent, Range

BLOCKS = 40
# For each block: a hole (0), not plain (1), or at a shift of its own (2 and up).
FILES = st.lists(st.integers(0, 4), min_size=BLOCKS, max_size=BLOCKS)


def as_extents(file: list[int], cuts: set[int]) -> list[Extent]:
    """The map of a file; a run may be cut into several extents, as filesystems do."""
    found: list[Extent] = []
    for number, value in enumerate(file):
        if not value:
            continue
        shift = None if value == 1 else value * 1000
        last = found[-1] if found else None
        if last and last.end == number and last.shift == shift and number not in cuts:
            found[-1] = last._replace(end=number + 1)
        else:
            found.append(Extent(number, number + 1, shift))
    return found


def blocks(ranges: list[Range]) -> set[int]:
    return {number for found in ranges for number in range(found.start, found.end)}


@given(FILES, FILES, st.sets(st.integers(0, BLOCKS)), st.sets(st.integers(0, BLOCKS)))
def test_every_block_that_differs_and_no_other(base: list[int], target: list[int], a: set[int], b: set[int]) -> None:
    walked = extents._different(iter(as_extents(base, a)), iter(as_extents(target, b)))
    found = list(extents._joined(walked))
    wanted = {n for n in range(BLOCKS) if base[n] != target[n] or base[n] == 1}
    assert blocks(found) == wanted
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
    assert all(one.start < one.end for one in found)
