"""The power fails under load, in two ways that must agree: what was acknowledged before is there afterwards, whole.

`python -m tests.soak cuts --cuts 200` is the long form.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from tests.soak.cuts import Plant
from tests.soak.disk import WAYS

CUTS = 4


@pytest.mark.slow
def test_what_was_acknowledged_survives_power_cuts(short_tmp: Path) -> None:
    with contextlib.closing(Plant(short_tmp, random.SystemRandom().getrandbits(32))) as plant:
        figures = plant.run(CUTS)
    assert figures.good, "\n".join([*figures.lost[:10], *figures.odd[:10], str(figures)])
    assert all(figures.cuts[way] for way in WAYS)
    assert figures.checked["volumes"], "nothing was acknowledged: that is no test"
