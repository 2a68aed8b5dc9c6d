"""The daemon and a kubelet: both ways of registration, a kubelet that restarts, an upgrade, bad configurations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.lab.devicemanager import DeviceManager
from plugins.lab.kubelet import Kubelet
from tests import processes
from tests.contract.device.conftest import WAIT, Daemon

NULL = 'select = [{ subsystem = "mem", name = "null" }]'
CONFIG = f"""
[[resources]]
name = "by-kubelet"
shares = 2
{NULL}

[[resources]]
name = "by-watcher"
registration = "watcher"
select = [{{ subsystem = "mem", name = ["zero", "full"] }}]

[[resources]]
name = "none-yet"
select = [{{ subsystem = "mem", name = "no-such-device" }}]
"""

Start = Callable[..., Daemon]


def all_there(devices: DeviceManager) -> None:
    devices.wait("nodeplug.internal/by-kubelet", allocatable=2, timeout=WAIT)
    devices.wait("nodeplug.internal/by-watcher", allocatable=2, timeout=WAIT)
    devices.wait("nodeplug.internal/none-yet", capacity=0, timeout=WAIT)


def test_both_ways_lead_to_the_kubelet_and_a_pod_gets_its_device(kubelet: Kubelet, daemon: Start) -> None:
    daemon(CONFIG).serving()
    all_there(kubelet.devices)
    got = kubelet.devices.allocate("pod", "nodeplug.internal/by-watcher", 1)
    (path,) = [d.host_path for d in got.response.devices]
    assert path in ("/dev/zero", "/dev/full")
    assert dict(got.response.envs) == {"NODEPLUG_DEVICES_BY_WATCHER": path}
    got = kubelet.devices.allocate("pod", "nodeplug.internal/by-kubelet", 2)
    assert [d.host_path for d in got.response.devices] == ["/dev/null"]


def test_a_kubelet_that_restarts_has_the_devices_again(kubelet: Kubelet, daemon: Start) -> None:
    """It removes every socket in device-plugins, ours too, and knows nobody."""
    process = daemon(CONFIG).serving()
    for _ in range(3):
        all_there(kubelet.devices)
        kubelet.restart()
    all_there(kubelet.devices)
    assert process.popen.poll() is None


def test_a_kubelet_that_comes_later(short_tmp: Path, daemon: Start) -> None:
    daemon(CONFIG).serving()
    with Kubelet(short_tmp / "k") as late:
        all_there(late.devices)


def test_an_upgrade_leaves_one_set_of_devices(kubelet: Kubelet, daemon: Start) -> None:
    old = daemon(CONFIG).serving()
    all_there(kubelet.devices)
    new = daemon(CONFIG).serving()
    old.wait_for("the new process is ready; this one waits for SIGTERM and touches nothing")
    assert old.stop() == 0
    all_there(kubelet.devices)
    assert len(kubelet.devices.devices("nodeplug.internal/by-kubelet")) == 2
    assert new.popen.poll() is None
    sockets = [path.name for path in (kubelet.root / "device-plugins").glob("nodeplug-*.sock")]
    assert len(sockets) == 2


def test_two_daemons_side_by_side_end_with_the_devices_of_the_one_that_stays(kubelet: Kubelet, daemon: Start) -> None:
    """When the first one's stream ends, the kubelet disconnects whoever is registered under the name by then."""
    first = daemon(CONFIG).serving()
    all_there(kubelet.devices)
    mark = kubelet.journal.mark()
    daemon(CONFIG, "other").serving()
    for resource in ("by-kubelet", "by-watcher"):
        kubelet.journal.wait("device_register", f"nodeplug.internal/{resource}", since=mark, timeout=WAIT)
    assert first.stop() == 0
    all_there(kubelet.devices)
    left = [path.name for path in kubelet.root.glob("*/nodeplug-*")]
    assert len(left) == 3


def test_a_stop_takes_the_devices_and_the_sockets_away(kubelet: Kubelet, daemon: Start) -> None:
    process = daemon(CONFIG).serving()
    all_there(kubelet.devices)
    assert process.stop() == 0
    kubelet.devices.wait("nodeplug.internal/by-kubelet", allocatable=0, timeout=WAIT)
    kubelet.devices.wait("nodeplug.internal/by-watcher", allocatable=0, timeout=WAIT)
    assert list(kubelet.root.glob("*/nodeplug-*")) == []


def test_without_resources_it_runs_and_says_so(daemon: Start) -> None:
    process = daemon("").serving()
    line = process.wait_for("no resource is configured: nothing is served; `nodeplug device example-config` shows how")
    assert line["level"] == "warning"
    assert process.stop() == 0


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plugins", "device", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=processes.ROOT, timeout=60, check=False)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            'resources=[{name="x",select=[{nmae="null"}]}]',
            "resource 'x': unknown key 'select[0].nmae'; did you mean 'name'?",
        ),
        ('resources=[{name="x",select=[{name="a[b"}]}]', "resource 'x': select[0].name: the pattern 'a[b'"),
        ("resorces=[]", "did you mean 'resources'?"),
        ("socket=/run/x.sock", "socket cannot be set for devices"),
    ],
)
def test_a_bad_configuration_ends_with_2_and_says_what_to_do(setting: str, said: str, short_tmp: Path) -> None:
    folders = ("--kubelet-dir", f"{short_tmp}/k", "--state-dir", f"{short_tmp}/s", "--set", setting)
    for command in ("serve", "check-config"):
        ended = run(command, *folders)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
    assert list(short_tmp.glob("k/*/*")) == []


def test_check_config_says_what_would_be_served() -> None:
    ended = run("check-config", "--set", 'resources=[{name="x",shares=3,select=[{subsystem="mem",name="null"}]}]')
    assert ended.returncode == 0
    assert "nodeplug.internal/x: devices now: 1, 3 shares each; registered by kubelet.sock" in ended.stdout
    assert "no resource is configured" in run("check-config").stdout
