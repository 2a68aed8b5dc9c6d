"""Fixtures for the lab: a short folder (socket paths have 107 bytes) and a kubelet with quick timings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.lab.apiserver import ApiServer
from plugins.lab.kubelet import Kubelet
from plugins.lab.timings import KubeletTimings
from tests.contract.lab.fakes import Servers
from tests.contract.lab.kms_world import World

# Short where a test waits for the time to pass, long where a busy machine must not be mistaken for a fault.
QUICK = KubeletTimings(
    tick=0.05,
    dial=3.0,
    get_info=3.0,
    notify=2.0,
    backoff=0.05,
    backoff_limit=0.2,
    stop_grace=1.0,
    pre_start=2.0,
    csi=10.0,
    provision=10.0,
)


@pytest.fixture
def folder(short_tmp: Path) -> Path:
    return short_tmp


@pytest.fixture
def kubelet(folder: Path) -> Iterator[Kubelet]:
    with Kubelet(folder / "k", timings=QUICK) as made:
        yield made


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def world(folder: Path, servers: Servers) -> World:
    return World(folder, servers)


@pytest.fixture
def api(world: World) -> Iterator[ApiServer]:
    with world.server() as made:
        yield made
