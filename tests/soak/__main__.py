"""`python -m tests.soak fuzz|walk|cuts`, as root: the long runs. The last line of each has its figures.

Exit code 0: nothing was lost, nothing was left behind, and no request got an answer that it must not get.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools import leaks


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fuzz = commands.add_parser("fuzz", help="random requests of every kind")
    fuzz.add_argument("--requests", type=int, default=200_000)
    fuzz.add_argument("--callers", type=int, default=8)
    fuzz.set_defaults(run=_fuzz)
    cuts = commands.add_parser("cuts", help="power cuts under load")
    cuts.add_argument("--cuts", type=int, default=200)
    cuts.set_defaults(run=_cuts)
    walk = commands.add_parser("walk", help="lives of volumes against a model, with kills")
    walk.add_argument("--steps", type=int, default=2000)
    walk.set_defaults(run=_walk)
    for command in (fuzz, walk, cuts):
        command.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args(argv)
    with _folder() as folder:
        return 0 if options.run(options, folder) else 1


def _fuzz(options: argparse.Namespace, folder: Path) -> bool:
    from tests.soak.fuzz import fuzzed

    with fuzzed(folder, options.seed) as fuzzer:
        figures = fuzzer.run(options.requests, options.callers, _say)
    for line in (*figures.bad[:50], *figures.left):
        _say(line)
    _say(str(figures))
    return figures.good


def _walk(options: argparse.Namespace, folder: Path) -> bool:
    from tests.soak.life import SETTINGS, Life
    from tests.soak.walk import Walk
    from tests.system.csi.kit import Driver

    driver = Driver(folder, *SETTINGS)
    life = Life(driver.start())
    try:
        figures = Walk(life, random.Random(options.seed)).run(options.steps, _say)
    except BaseException:
        _say("\n".join([*life.history, driver.process.text()[-6000:] if driver.process else ""]))
        raise
    finally:
        driver.clean()
    _say(f"{figures} (seed {options.seed})")
    _say(", ".join(f"{point} {count}" for point, count in sorted(figures.kills.items())))
    return True


def _cuts(options: argparse.Namespace, folder: Path) -> bool:
    from tests.soak.cuts import Plant

    with contextlib.closing(Plant(folder, options.seed)) as plant:
        figures = plant.run(options.cuts, _say)
    for line in (*figures.lost[:50], *figures.odd[:50], *figures.late[:20]):
        _say(line)
    _say(str(figures))
    return figures.good


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
