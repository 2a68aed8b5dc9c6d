"""The daemons of nodeplug as the benchmarks start them: each below a temporary root, with the least configuration."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from benchmarks import processes

Running = contextlib.AbstractContextManager[Path]
"""Gives the public socket."""

_RESOURCES = """\
[[resources]]
name = "bench"
shares = 4
select = [{ subsystem = "mem", name = ["null", "zero", "full"] }]
"""


def csi_command(root: Path, pool: Path) -> list[str]:
    """The CSI daemon on a mounted pool."""
    return processes.nodeplug("csi", root, f"pool={pool / 'csi'}")


def kms_command(root: Path) -> list[str]:
    """The KMS daemon with a keyring of one key."""
    keyring = root / "keyring.json"
    if not keyring.exists():
        argv = [sys.executable, "-m", "plugins", "kms", "init", "--keyring", str(keyring)]
        subprocess.run(argv, check=True, capture_output=True)
    return processes.nodeplug("kms", root, f"keyring={keyring}")


def device_command(root: Path, style: str = "watcher") -> list[str]:
    """The device daemon with one resource of devices that every machine has."""
    config = root / "device.toml"
    config.write_text(_RESOURCES)
    return [*processes.nodeplug("device", root, f"registration={style}"), "--config", str(config)]


def csi(root: Path, pool: Path) -> Running:
    """The CSI daemon, serving."""
    return processes.serving(csi_command(root, pool), root / "csi.sock")


def kms(root: Path) -> Running:
    """The KMS daemon, serving."""
    return processes.serving(kms_command(root), root / "kms.sock")
