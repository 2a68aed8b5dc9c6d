"""Rules of the domain that need neither a kernel nor a socket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from plugins.core.config import example, load
from plugins.core.errors import ConfigError, ResourceExhausted
from plugins.csi import config as settings
from plugins.csi import faultpoints
from plugins.csi.capacity import Capacity
from plugins.csi.config import CsiConfig
from plugins.csi.model import AccessMode, Capability, Volume
from plugins.csi.pool import loop
from plugins.csi.wiring import describe

SOURCES = Path(faultpoints.__file__).parent


def test_every_fault_point_is_listed_and_every_listed_one_exists() -> None:
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*.py"))
    plain = set(re.findall(r'faults\.point\("([^"]+)"\)', text))
    steps = set(re.findall(r'faults\.point\(f"\{step\}\.(\w+)"\)', text))
    stepped = {p for p in faultpoints.ALL if p.rpartition(".")[2] in steps and f'"{p.rpartition(".")[0]}"' in text}
    assert plain <= faultpoints.ALL
    assert plain | stepped >= faultpoints.ALL


def test_structures_have_the_kernels_size() -> None:
    assert (loop._INFO.size, loop._CONFIG.size) == (232, 304)


def test_device_numbers_are_read_as_the_kernel_writes_them() -> None:
    import os

    for major, minor in ((7, 0), (7, 255), (7, 256), (259, 70000), (4095, 1)):
        huge = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
        assert loop._device(huge) == os.makedev(major, minor)


def volume(**changes: Any) -> Volume:
    fields: dict[str, Any] = {"fs": "ext4", "fs_given": True, "block": False, "used": False, "size": 1 << 30}
    fields |= changes
    return Volume(seq=1, id="i", token="t", name="n", parameters={}, created=0.0, **fields)


MOUNT = Capability(False, AccessMode.SINGLE_NODE_WRITER)


@pytest.mark.parametrize(
    ("made", "wanted", "fits"),
    [
        (volume(), MOUNT, True),
        (volume(), Capability(False, AccessMode.SINGLE_NODE_WRITER, "ext4"), True),
        (volume(), Capability(False, AccessMode.SINGLE_NODE_WRITER, "xfs"), False),
        (volume(fs_given=False), Capability(False, AccessMode.SINGLE_NODE_WRITER, "xfs"), True),
        (volume(fs_given=False, size=16 << 20), Capability(False, AccessMode.SINGLE_NODE_WRITER, "xfs"), False),
        (volume(fs_given=False, used=True), Capability(False, AccessMode.SINGLE_NODE_WRITER, "xfs"), False),
        (volume(), Capability(True, AccessMode.SINGLE_NODE_WRITER), False),
        (volume(block=True), Capability(True, AccessMode.SINGLE_NODE_WRITER), True),
        (volume(fs="", block=True), MOUNT, False),
        (volume(), Capability(False, AccessMode.MULTI_NODE_READER_ONLY), False),
        (volume(), Capability(False, AccessMode.SINGLE_NODE_WRITER, flags=("bind",)), False),
    ],
)
def test_what_a_volume_can_be_used_for(made: Volume, wanted: Capability, fits: bool) -> None:
    assert bool(made.objection(wanted)) is not fits


class FakePool:
    """Space as a test wants it."""

    def __init__(self, total: int, free: int, images: int = 0, *, dedicated: bool = True) -> None:
        self.dedicated = dedicated
        self._space = (total, free)
        self.images = self
        self._allocated = images

    def space(self) -> tuple[int, int]:
        return self._space

    def allocated(self) -> int:
        return self._allocated


def capacity(pool: FakePool, promised: int = 0, reserve: int = 10, overcommit: float = 1.0) -> Capacity:
    return Capacity(cast(Any, pool), promised, reserve=reserve, overcommit=overcommit)


def test_a_promise_counts_though_it_takes_no_space() -> None:
    account = capacity(FakePool(100, 100))
    with account.promise(60, "n"):
        assert account.available() == 30
        with pytest.raises(ResourceExhausted, match="'n'"), account.promise(31, "n"):
            pass
    account.release(60)
    assert account.available() == 90


def test_a_promise_that_could_not_be_kept_is_taken_back() -> None:
    account = capacity(FakePool(100, 100))
    with pytest.raises(KeyError), account.promise(60, "n"):
        raise KeyError
    assert account.available() == 90


@pytest.mark.parametrize(
    ("pool", "promised", "overcommit", "available"),
    [
        (FakePool(100, 40), 0, 1.0, 90),  # what is used of a dedicated pool is our volumes', which are promised
        (FakePool(100, 40, 10, dedicated=False), 10, 1.0, 30),  # others use 50
        (FakePool(100, 100), 90, 2.0, 90),
        (FakePool(100, 10), 0, 9.0, 0),  # the reserve is touched
    ],
)
def test_what_is_available(pool: FakePool, promised: int, overcommit: float, available: int) -> None:
    assert capacity(pool, promised, 10, overcommit).available() == available


def test_the_example_is_the_default() -> None:
    import tomllib

    tomllib.loads(example(CsiConfig, "csi"))
    assert "overcommit" in example(CsiConfig, "csi")


@pytest.mark.parametrize("change", ["node_id=UPPER", "node_id=a/b", f"node_id={'n' * 200}", "domain=1", "domain=a..b_"])
def test_names_that_cannot_be_part_of_an_id_are_refused(change: str) -> None:
    config = load(CsiConfig, "csi", file=None, environ={}, overrides=[change])
    with pytest.raises(ConfigError):
        describe(config)


def test_names_follow_from_the_domain() -> None:
    config = load(CsiConfig, "csi", file=None, environ={}, overrides=["domain=example.org", "kubelet_dir=/k"])
    assert settings.driver_name(config) == "local.csi.example.org"
    assert settings.topology_key(config) == "topology.local.csi.example.org/node"
    assert str(settings.socket_path(config)) == "/k/plugins/local.csi.example.org/csi.sock"
    assert str(settings.registration_path(config)) == "/k/plugins_registry/local.csi.example.org-reg.sock"


def test_check_config_says_where_volumes_will_lie(tmp_path: Path) -> None:
    config = load(CsiConfig, "csi", file=None, environ={}, overrides=[f"state_dir={tmp_path}", "node_id=n"])
    assert any(str(tmp_path / "pool") in line for line in describe(config))
    assert list(tmp_path.iterdir()) == []
