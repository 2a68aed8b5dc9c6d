"""Idle memory of each daemon beside a bare grpcio server: Pss of /proc/PID/smaps_rollup.

Pages that several processes map are divided among them, so a second Python process would make every figure smaller.
Therefore one server runs at a time, and pss.sh, to which this process gives way, starts and measures them all; at its
end it calls `python -m benchmarks` again, with the results.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks import daemons, places, processes
from benchmarks.harness import Figure, Options

BOUND = 1.25
ROOT = "NODEPLUG_BENCH_PSS"
"""The environment variable that says where the results lie."""

_SETTLE = 1  # seconds between the public socket and the look
_FLOOR = "bare"


def measured() -> bool:
    """Whether pss.sh ran already."""
    return ROOT in os.environ


def give_way(options: Options, arguments: Sequence[str]) -> NoReturn:
    """Become a shell that measures, and then starts the benchmarks again with the same arguments."""
    root = places.make_root()
    bare = root / "bare.sock"
    servers = {_FLOOR: processes.bare(bare, "echo")}
    if os.geteuid() == 0:
        servers["csi"] = daemons.csi_command(root, places.pool(root))
    servers["device"] = daemons.device_command(root)
    servers["kms"] = daemons.kms_command(root)
    # A daemon's control socket is the last thing that it makes at a start.
    sockets = {name: root / f"{name}-state" / "control.sock" for name in servers} | {_FLOOR: bare}
    entries = [f"{name}={sockets[name]}={' '.join(argv)}" for name, argv in servers.items()]
    here = Path(__file__).parent
    measure = shlex.join(
        ["sh", str(here / "pss.sh"), str(root / "results"), str(options.pairs), str(_SETTLE), *entries]
    )
    again = shlex.join([sys.executable, "-m", "benchmarks", *arguments])
    # The trap keeps this shell alive at ctrl-C, so that what follows removes the root.
    script = f"trap : INT TERM; {measure}; exec {again}"
    os.execve("/bin/sh", ["sh", "-c", script], {**os.environ, ROOT: str(root)})


def run(options: Options) -> list[Figure]:
    """One figure for each daemon, from what pss.sh wrote; its root is removed."""
    root = Path(os.environ.pop(ROOT))
    results = root / "results"
    lines = results.read_text().splitlines() if results.exists() else []
    places.remove(root)
    values: dict[str, list[float]] = defaultdict(list)
    own: dict[str, list[float]] = defaultdict(list)
    others = 0
    for line in lines:
        name, kilobytes, private, beside = line.split("\t")
        values[name].append(int(kilobytes) / 1024)
        own[name].append(int(private) / 1024)
        others = max(others, int(beside))
    if not lines or any(len(ours) < options.pairs for ours in values.values()):
        raise processes.Failed("the measurement of memory did not come to its end")
    floor, own_floor = values.pop(_FLOOR), own.pop(_FLOOR)
    note = f"{others} other processes shared pages: not to be used" if others else ""
    idle = [
        Figure(f"idle memory: {name}", "MiB", ours, floor, bound=None if others else BOUND, note=note)
        for name, ours in values.items()
    ]
    # What the daemon alone holds, whatever file pages it gave back; it has no bound.
    return idle + [Figure(f"private part: {name}", "MiB", ours, own_floor, note=note) for name, ours in own.items()]
