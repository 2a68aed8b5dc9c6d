"""Where sockets lie: one for each resource, the same after a restart, short enough for a Unix socket."""

from __future__ import annotations

from pathlib import Path

from plugins.core.sockets import MAX_PATH
from plugins.device import endpoints
from tests.unit.device.kit import rule

KUBELET = Path("/var/lib/kubelet")


def test_one_state_directory_one_name_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = endpoints.device_plugin_socket(KUBELET, tmp_path / "a", rule("kvm"))
    assert one == endpoints.device_plugin_socket(KUBELET, tmp_path / "a", rule("kvm"))
    others = {endpoints.device_plugin_socket(KUBELET, tmp_path / "b", rule("kvm"))}
    others |= {endpoints.device_plugin_socket(KUBELET, tmp_path / "a", rule("kvm2"))}
    assert len({one, *others}) == 3
    assert one.parent == endpoints.kubelet_socket(KUBELET).parent


def test_a_long_name_fits_and_stays_apart(tmp_path: Path) -> None:
    paths = set()
    for end in "ab":
        made = rule("x" * 62 + end)
        paths |= {
            endpoints.device_plugin_socket(KUBELET, tmp_path, made),
            endpoints.registry_socket(KUBELET, tmp_path, made),
        }
    assert len(paths) == 4
    assert max(len(str(path)) for path in paths) <= MAX_PATH - 20
