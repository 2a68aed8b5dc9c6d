"""The whole life of volumes and snapshots against a model, with kills at the daemon's fault points (Hypothesis).

`python -m tests.soak walk --steps 2000` is the long form.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.soak.life import KINDS, SETTINGS, Known, Life
from tests.system.csi.kit import Driver
from tools import leaks

EXAMPLES = int(os.environ.get("NODEPLUG_STATE_MACHINES", "2"))
_MOST = 4  # volumes, and snapshots

numbers = st.integers(min_value=0, max_value=1000)
faults = st.one_of(st.none(), numbers)
"""Which of the points that a step may pass kills the daemon; None: none does."""


@pytest.fixture
def driver() -> Iterator[Driver]:
    root = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    made = Driver(root, *SETTINGS)
    try:
        yield made.start()
    finally:
        made.clean()
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * EXAMPLES)
def test_lives_of_volumes(driver: Driver) -> None:
    class Lives(_Lives):
        def __init__(self) -> None:
            super().__init__(driver)

    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


class _Lives(RuleBasedStateMachine):
    """Each rule is a step of `Life`; what it is done to is drawn."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        if driver.process is None or driver.process.popen.poll() is not None:
            driver.start()
        self.life = Life(driver)

    def teardown(self) -> None:
        """Everything is taken away again, whatever it was: the next example finds nothing."""
        self.life.finish()

    @invariant()
    def the_machine_is_as_the_model_says(self) -> None:
        self.life.check()

    @precondition(lambda self: len(self.life.volumes) < _MOST)
    @rule(kind=st.sampled_from(KINDS), fault=faults)
    def create(self, kind: str, fault: int | None) -> None:
        self._arm("create", None, fault)
        self.life.create(kind)

    @precondition(lambda self: self.life.snapshots and len(self.life.volumes) < _MOST)
    @rule(number=numbers, fault=faults)
    def restore(self, number: int, fault: int | None) -> None:
        snapshot = list(self.life.snapshots)[number % len(self.life.snapshots)]
        self._arm("copy", None, fault)
        self.life.copy(snapshot, self.life.snapshots[snapshot])

    @precondition(lambda self: 0 < len(self.life.volumes) < _MOST)
    @rule(number=numbers, fault=faults)
    def clone(self, number: int, fault: int | None) -> None:
        volume = self._pick(self.life.volumes, number)
        self._arm("copy", None, fault)
        self.life.copy(volume.id, volume.content)

    @precondition(lambda self: self.life.volumes)
    @rule(number=numbers, fault=faults)
    def stage(self, number: int, fault: int | None) -> None:
        volume = self._pick(self.life.volumes, number)
        self._arm("stage", volume, fault)
        self.life.stage(volume)

    @precondition(lambda self: self._staged)
    @rule(number=numbers, read_only=st.booleans(), fault=faults)
    def publish(self, number: int, read_only: bool, fault: int | None) -> None:
        volume = self._pick(self._staged, number)
        self._arm("publish", volume, fault)
        self.life.publish(volume, read_only=read_only)

    @precondition(lambda self: self._published)
    @rule(number=numbers)
    def write(self, number: int) -> None:
        self.life.write(self._pick(self._published, number))

    @precondition(lambda self: self._published)
    @rule(number=numbers, fault=faults)
    def unpublish(self, number: int, fault: int | None) -> None:
        volume = self._pick(self._published, number)
        self._arm("unpublish", volume, fault)
        self.life.unpublish(volume)

    @precondition(lambda self: self._idle)
    @rule(number=numbers, fault=faults)
    def unstage(self, number: int, fault: int | None) -> None:
        volume = self._pick(self._idle, number)
        self._arm("unstage", volume, fault)
        self.life.unstage(volume)

    @precondition(lambda self: self.life.volumes)
    @rule(number=numbers, fault=faults)
    def grow(self, number: int, fault: int | None) -> None:
        volume = self._pick(self.life.volumes, number)
        self._arm("grow", volume, fault)
        self.life.grow(volume)

    @precondition(lambda self: self.life.volumes and len(self.life.snapshots) < _MOST)
    @rule(number=numbers, fault=faults)
    def snapshot(self, number: int, fault: int | None) -> None:
        volume = self._pick(self.life.volumes, number)
        self._arm("snapshot", volume, fault)
        self.life.snapshot(volume)

    @precondition(lambda self: self.life.snapshots)
    @rule(number=numbers, fault=faults)
    def delete_snapshot(self, number: int, fault: int | None) -> None:
        self._arm("delete_snapshot", None, fault)
        self.life.delete_snapshot(list(self.life.snapshots)[number % len(self.life.snapshots)])

    @precondition(lambda self: self.life.volumes)
    @rule(number=numbers, fault=faults)
    def delete(self, number: int, fault: int | None) -> None:
        volume = self._pick(self.life.volumes, number)
        self._arm("delete", volume, fault)
        self.life.delete(volume)

    @property
    def _staged(self) -> list[Known]:
        return [volume for volume in self.life.volumes if volume.staged]

    @property
    def _published(self) -> list[Known]:
        return [volume for volume in self.life.volumes if volume.published]

    @property
    def _idle(self) -> list[Known]:
        return [volume for volume in self._staged if not volume.published]

    def _arm(self, step: str, volume: Known | None, fault: int | None) -> None:
        if fault is not None:
            points = self.life.faults(step, volume)
            self.life.arm(points[fault % len(points)])

    @staticmethod
    def _pick(volumes: list[Known], number: int) -> Known:
        return volumes[number % len(volumes)]
