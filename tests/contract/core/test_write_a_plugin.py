"""docs/write-a-plugin.md works as it stands: its text is taken out, started and asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.lab.kubelet import Kubelet
from tests.contract.core.conftest import ROOT

DOCUMENT = ROOT / "docs/write-a-plugin.md"
RESOURCE = "example.internal/fuse"


@pytest.fixture
def plugin(short_tmp: Path) -> Path:
    (text,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    file = short_tmp / "fuse_plugin.py"
    file.write_text(text)
    return file


def run(plugin: Path, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, plugin, *arguments], env=environ, capture_output=True, text=True, timeout=30, check=True
    ).stdout


@pytest.fixture
def kubelet(short_tmp: Path) -> Iterator[Kubelet]:
    with Kubelet(short_tmp / "kubelet") as running:
        yield running


def test_its_configuration(plugin: Path) -> None:
    assert "# How many pods may use it at a time.\nshares = 10" in run(plugin, "example-config")
    assert "valid" in run(plugin, "check-config", "--set", "shares=20")


def test_pods_get_the_device_and_a_kubelet_restart_changes_nothing(plugin: Path, kubelet: Kubelet) -> None:
    folders = ["--kubelet-dir", str(kubelet.root), "--state-dir", str(plugin.parent / "state")]
    arguments = [str(plugin), "serve", *folders, "--set", "shares=3"]
    process = subprocess.Popen([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        kubelet.devices.wait(RESOURCE, allocatable=3, timeout=20)
        granted = kubelet.devices.allocate("pod", RESOURCE, 1)
        assert [d.host_path for d in granted.response.devices] == ["/dev/fuse"]
        kubelet.restart()
        kubelet.devices.wait(RESOURCE, allocatable=3, timeout=20)
        process.terminate()
        assert process.wait(20) == 0
        kubelet.devices.wait(RESOURCE, allocatable=0, timeout=20)
    finally:
        process.kill()
        process.wait()
