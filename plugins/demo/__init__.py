"""`nodeplug demo`: all three daemons at work against an embedded kubelet and API server, in a temporary folder.

Exit codes: 0 all that can run here did; 1 a step failed; 2 wrong usage; 128 + signal: interrupted. On every way out
nothing is left: no process, mount, loop device or file.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the demo; returns the exit code."""
    from plugins.demo import options, run

    return run.run(options.parse(argv))
