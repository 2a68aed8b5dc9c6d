"""Everything that `./dev test` does after set-up: a list of steps, their account, one table and one last line.

    python -m tools.checks               every step
    python -m tools.checks unit layers   only these

A step is a program. What it found is told by its exit code, and by tests in an account that they write themselves.
Without root the steps and tests that need it are counted as skipped and named; that is no failure. Where
NODEPLUG_REQUIRE_ALL or CI is set, a missing tool is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix) / "bin"
OUT_OF_TIME = 124

_SANITY = re.compile(r"csi-sanity.*?: (\d+) passed, (\d+) failed, (\d+) skipped")


@dataclass(frozen=True)
class Step:
    """One program to run.

    seconds: how long it may take before it is ended and counts as failed.
    show: when its output is shown: "live", "always" (at its end) or "failed".
    root: whether all of it needs root.
    """

    name: str
    argv: tuple[str, ...]
    seconds: float = 120
    show: str = "failed"
    root: bool = False


@dataclass
class Account:
    """What a step found. skips: reason to count; failures: what failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    skips: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def _tests(name: str, seconds: float) -> Step:
    return Step(name, (sys.executable, "-m", "pytest", "-q", "-r", "fE", f"tests/{name}"), seconds, show="live")


def _sanity(mode: str) -> Step:
    # The first of the two builds csi-sanity, which may fetch a Go tool chain.
    return Step(f"sanity-{mode}", (sys.executable, "tests/sanity/run.py", mode), 600, show="always", root=True)


STEPS = (
    Step("lint", (str(BIN / "ruff"), "check", "--output-format", "concise", ".")),
    Step("types", (str(BIN / "mypy"),), seconds=300),
    Step("layers", (str(BIN / "lint-imports"), "--no-cache")),
    Step("generated", (sys.executable, "tools/protogen.py", "--check")),
    _tests("unit", 300),
    _tests("contract", 720),
    _tests("system", 600),
    _sanity("filesystem"),
    _sanity("block"),
    _sanity("filesystem-attach"),
    _sanity("block-attach"),
)


def main() -> int:
    """Run the steps that were asked for; exit code 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="./dev test", description="Check everything, or only the steps named.")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--list", action="store_true", help="name the steps")
    args = parser.parse_args()
    names = [step.name for step in STEPS]
    if args.list:
        print("\n".join(names))
        return 0
    if unknown := sorted(set(args.steps) - set(names)):
        parser.error(f"no such step: {', '.join(unknown)}; the steps are {', '.join(names)}")
    if os.environ.get("CI", "") not in ("", "0", "false"):
        os.environ.setdefault("NODEPLUG_REQUIRE_ALL", "1")
    chosen = [step for step in STEPS if not args.steps or step.name in args.steps]
    accounts: dict[str, Account] = {}
    for number, step in enumerate(chosen, 1):
        print(f"== {step.name} ({number} of {len(chosen)})", flush=True)
        accounts[step.name] = carry_out(step)
    report(accounts)
    return 1 if any(account.failed for account in accounts.values()) else 0


def carry_out(step: Step) -> Account:
    """Run one step to its end, or to the end of its time."""
    if step.root and os.geteuid() != 0:
        return Account(skipped=1, skips={f"needs root: sudo ./dev test {step.name}": 1})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="np-checks-") as folder:
        note, output = Path(folder, "account.json"), Path(folder, "output")
        code = run(step, note, output)
        text = output.read_text(errors="replace")
        account = read(step, code, note, text)
    if step.show == "always" or (step.show == "failed" and account.failed):
        print(text, end="", flush=True)
    account.seconds = time.monotonic() - began
    return account


def run(step: Step, note: Path, output: Path) -> int:
    """The exit code of a step's program. Its output goes into a file: a pipe would wait for every heir of it."""
    environment = os.environ | {"NODEPLUG_TEST_ACCOUNT": str(note)}
    with output.open("wb") as sink:
        target = None if step.show == "live" else sink
        process = subprocess.Popen(step.argv, cwd=ROOT, env=environment, stdout=target, stderr=subprocess.STDOUT)
        try:
            return process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            return OUT_OF_TIME
        finally:  # after its time, or ctrl-C, which it received too: it cleans up and ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()


def read(step: Step, code: int, note: Path, text: str) -> Account:
    """A step's account: its own where it wrote one, csi-sanity's where it printed one, else the exit code."""
    account = Account()
    if note.exists():
        account = Account(**json.loads(note.read_text()))
    elif found := _SANITY.findall(text):
        passed, failed, skipped = map(int, found[-1])
        skips = {"specs, each group with its reason in the list above": skipped} if skipped else {}
        account = Account(passed, failed, skipped, skips=skips)
    elif code == 0:
        account.passed = 1
    if code != 0 and account.failed == 0:
        account.failed = 1
        why = f"did not end within {step.seconds:g} s" if code == OUT_OF_TIME else f"ended with exit code {code}"
        account.failures.append(f"{step.name} {why}")
    return account


def report(accounts: dict[str, Account]) -> None:
    """What was skipped and why, what failed, the table, the last line."""
    for title, lines in (
        ("skipped", [f"{count:4}  {name}: {why}" for name, a in accounts.items() for why, count in a.skips.items()]),
        ("failed", [f"      {name}: {what}" for name, a in accounts.items() for what in a.failures]),
    ):
        if lines:
            print(f"== {title}", *lines, sep="\n")
    print("== summary")
    print(f"{'step':<20}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for name, a in accounts.items():
        print(f"{name:<20}{a.passed:>8}{a.failed:>8}{a.skipped:>9}{a.seconds:>9.1f}")
    total = [sum(getattr(a, key) for a in accounts.values()) for key in ("passed", "failed", "skipped")]
    print("{} passed, {} failed, {} skipped".format(*total), flush=True)


if __name__ == "__main__":
    sys.exit(main())
