"""Rewrites constraints.txt: the newest versions that pyproject.toml allows, installed together in a fresh place."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"


def main() -> int:
    """Install, list, write. The comment at the head of the file stays."""
    with tempfile.TemporaryDirectory(prefix="np-pins-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[dev]"], check=True)
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
        ).stdout
    head = [line for line in PINS.read_text().splitlines() if line.startswith("#")]
    pins = [line for line in frozen.splitlines() if "==" in line]
    PINS.write_text("\n".join([*head, *pins]) + "\n")
    print(f"{len(pins)} versions in {PINS.name}; run ./dev test before you keep them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
