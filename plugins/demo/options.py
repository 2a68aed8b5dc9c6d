"""The options of `nodeplug demo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plugins.demo import trees
from plugins.demo.trees import Source


@dataclass(frozen=True)
class Options:
    """data: what the volume is filled with. keep: leave everything running until ctrl-C."""

    data: Source
    keep: bool
    json: bool
    colour: bool


def parse(argv: Sequence[str]) -> Options:
    """The command line; ends the process with exit code 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="nodeplug demo",
        description="Run the three daemons against an embedded kubelet and API server, in a temporary folder. Volumes "
        "need root; devices and keys do not. Nothing is left behind.",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="what the volume is filled with (Python's standard library)"
    )
    parser.add_argument("--keep", action="store_true", help="leave all running until ctrl-C, and say what to try")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--no-color", action="store_true", help="as with NO_COLOR in the environment")
    args = parser.parse_args(argv)
    if args.data is not None and not args.data.is_dir():
        parser.error(f"--data {args.data}: there is no such directory")
    data = Source(args.data.resolve()) if args.data is not None else trees.standard_library()
    return Options(data, args.keep, args.output == "json", not args.no_color)
