"""`python -m benchmarks [NAME ...]`: runs benchmarks one after the other, prints a table, writes build/bench.json."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks import bench_pss, harness
from benchmarks.stats import Verdict

BENCHMARKS = {
    "pss": "idle memory of each daemon beside a bare grpcio server",
    "start": "process start to registered, or to the first answer",
    "edge": "an empty call through the public socket beside a bare grpcio server",
    "ready": "Create + Stage + Publish beside the raw system calls (root)",
    "kms": "Status, Encrypt, Decrypt beside a bare server, and beside a peer",
}
_NEED_ROOT = {"edge", "ready"}


def main() -> int:
    """Exit code 1 if a bound was missed."""
    parser = _parser()
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(BENCHMARKS)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if args.list:
        print("\n".join(f"{name:<8}{text}" for name, text in BENCHMARKS.items()))
        return 0
    options = harness.Options(args.pairs, args.peer_command, args.peer_socket)
    chosen = [name for name in BENCHMARKS if name in (args.names or BENCHMARKS)]
    if os.geteuid() != 0:
        for name in _NEED_ROOT.intersection(chosen):
            chosen.remove(name)
            print(f"{name}: needs root, left out", file=sys.stderr)
    if "pss" in chosen and not bench_pss.measured():
        bench_pss.give_way(options, sys.argv[1:])
    _warn_if_busy()
    figures = []
    for name in chosen:
        figures += importlib.import_module(f"benchmarks.bench_{name}").run(options)
    print(harness.table(figures))
    harness.save(figures, args.json)
    print(f"every value is in {args.json}")
    return 1 if any(figure.verdict is Verdict.MISSED for figure in figures) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure beside floors and peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (all); see --list")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--pairs", type=int, default=harness.Options.pairs, help="values of each side (%(default)s)")
    parser.add_argument("--peer-command", default="", metavar="COMMAND", help="starts a KMS v2 peer on {socket}")
    parser.add_argument("--peer-socket", default="", metavar="PATH", help="a KMS v2 peer that runs already")
    parser.add_argument(
        "--json", type=Path, default=Path(os.environ.get("NODEPLUG_BUILD", "build"), "bench.json"), metavar="FILE"
    )
    return parser


def _warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): these figures decide nothing", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
