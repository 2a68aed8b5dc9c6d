"""What tests may leave behind on a machine: loop devices, mounts, processes, temporary folders.

As a command it compares two moments of a machine on which nothing else runs: `save FILE` before, `compare FILE` after.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Snapshot = dict[str, dict[str, str]]
"""Kind ("loop device", ...) to name to what a person wants to know of it."""

PREFIX = "np-"
"""Every temporary folder of ours starts so, and lies in /tmp: socket paths end at 107 bytes."""


def snapshot() -> Snapshot:
    """Everything of these kinds that exists now, whoever made it."""
    return {"loop device": loops(), "mount": mounts(), "process": processes(), "folder": folders()}


def loops() -> dict[str, str]:
    """Attached loop devices with their backing files (sysfs, no privilege needed)."""
    return {
        file.parent.parent.name: _text(file).strip() for file in Path("/sys/block").glob("loop*/loop/backing_file")
    }


def mounts() -> dict[str, str]:
    """Mount points of our mount namespace with their sources (proc_pid_mountinfo(5))."""
    found = {}
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        found[fields.split()[4].replace("\\040", " ")] = rest.split()[1]
    return found


def processes(marker: str = "") -> dict[str, str]:
    """Our daemons and demos by pid; with a marker, every process that has it in its environment instead."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        argv = _text(folder / "cmdline").rstrip("\0").split("\0")
        ours = marker in _text(folder / "environ").split("\0") if marker else _is_ours(argv)
        if ours and folder.name != str(os.getpid()) and _state(folder) not in ("Z", "X", ""):
            found[folder.name] = " ".join(argv)
    return found


def folders() -> dict[str, str]:
    """Our temporary folders."""
    return {str(path): "" for path in Path("/tmp").glob(PREFIX + "*")}


def new(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that was not there before."""
    return [
        f"{kind} {name} {about}".rstrip()
        for kind, things in after.items()
        for name, about in sorted(things.items())
        if before.get(kind, {}).get(name) != about
    ]


def below(roots: Iterable[str], now: Snapshot) -> Snapshot:
    """The loop devices, mounts and folders that belong to these folders."""
    places = tuple(root.rstrip("/") for root in roots)

    def inside(path: str) -> bool:
        return any(path == place or path.startswith((place + "/", place + " ")) for place in places)

    return {
        "loop device": {name: file for name, file in now["loop device"].items() if inside(file)},
        "mount": {point: source for point, source in now["mount"].items() if inside(point)},
        "folder": {name: about for name, about in now["folder"].items() if inside(name)},
    }


def settle(check: Callable[[], list[str]], seconds: float = 5) -> list[str]:
    """What check still finds when processes that are just ending, and lazy detaches, have had their time."""
    deadline = time.monotonic() + seconds
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _is_ours(argv: list[str]) -> bool:
    module = any(one == "-m" and two == "plugins" for one, two in itertools.pairwise(argv))
    return module or any(Path(word).name == "nodeplug" for word in argv[:2])


def _state(folder: Path) -> str:
    return _text(folder / "stat").rpartition(")")[2].strip()[:1]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it went away, or is not ours to read
        return ""


def main() -> int:
    """Save a snapshot, or compare with a saved one: exit code 1 if something is new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("save", "compare"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    if args.action == "save":
        args.file.write_text(json.dumps(snapshot(), indent=1))
        return 0
    before = json.loads(args.file.read_text())
    left = settle(lambda: new(before, snapshot()))
    for line in left:
        print(f"left behind: {line}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
