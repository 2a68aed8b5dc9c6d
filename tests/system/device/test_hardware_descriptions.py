"""Machines that are not here: descriptions of their devices, shown to the real code by umockdev."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import processes

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(shutil.which("umockdev-run") is None, reason="umockdev is not installed")


def device(*words: str) -> list[dict[str, Any]]:
    command = [
        "umockdev-run",
        "-d",
        str(HERE / "node.umockdev"),
        "--",
        sys.executable,
        "-m",
        "plugins",
        "device",
        *words,
    ]
    command += ["--config", str(HERE / "node.toml"), "--output", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=processes.ROOT, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    rows: list[dict[str, Any]] = json.loads(ended.stdout)
    return rows


def test_gpus_and_usb_adapters_by_what_they_hang_on() -> None:
    assert [(row["resource"].rpartition("/")[2], row["id"], row["node"], row["numa"]) for row in device("list")] == [
        ("kvm", "kvm-s0", "/dev/kvm", None),
        ("kvm", "kvm-s1", "/dev/kvm", None),
        ("mi300", "pci-0000-21-00-0-renderd", "/dev/dri/renderD128", 0),
        ("npu", "pci-0000-00-0b-0-accel", "/dev/accel/accel0", None),
        ("ftdi", "usb-0403-6001-a10k3d-if00-port0-ttyusb", "/dev/ttyUSB0", None),
        ("serial", "usb-0000-00-14-0-3-if00-port0-ttyusb", "/dev/ttyUSB1", None),
    ]


def test_the_reason_why_a_card_is_not_taken() -> None:
    (row,) = device("match", "/dev/dri/card1")
    assert row["resource"] is None
    assert row["why_not"]["mi300"] == "name is 'card1', wanted 'renderD*'"
