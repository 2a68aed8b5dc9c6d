"""csi-sanity against the real daemon: `python tests/sanity/run.py [MODE ...]`, as root.

Each mode gets a fresh daemon on temporary folders with an embedded pool of its own. The last line of a mode is
`csi-sanity: N passed, N failed, N skipped (MODE)`; exit code 0: nothing failed and nothing was left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.sanity.build import BuildFailed, find_or_build  # noqa: E402 - the folder is on the path only now
from tools import leaks  # noqa: E402

# (access type, whether volumes are attached first)
MODES = {
    "filesystem": ("mount", False),
    "block": ("block", False),
    "filesystem-attach": ("mount", True),
    "block-attach": ("block", True),
}
VOLUME_SIZE = 64 << 20  # bytes; csi-sanity would take 10 GiB
EXPANDED_SIZE = 96 << 20
# Specs that no driver can pass. What they are meant to see, tests/system/csi sees.
BROKEN = {
    "should succeed when creating a snapshot with accessibility requirements": "broken upstream: it compares messages "
    "together with the sizes that Go keeps in them, so any driver that reports a snapshot's topology fails it",
}
_START_S = 20.0
_RUN_S = 240


@dataclass
class Outcome:
    """What a run said. skips: why, and how often; failures: names and messages."""

    passed: int
    failed: int
    pending: int
    skips: collections.Counter[tuple[str, str]]
    failures: list[str]

    @property
    def skipped(self) -> int:
        return sum(self.skips.values())


class NotStarted(Exception):
    """The daemon did not come up; the message has its log."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", choices=[*MODES, []], metavar="MODE", help=" or ".join(MODES))
    parser.add_argument("--verbose", action="store_true", help="csi-sanity's own output too")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.geteuid() != 0:
        print("csi-sanity needs root: mounts and loop devices", file=sys.stderr)
        return 2
    try:
        program = find_or_build()
        outcomes = [run(program, mode, verbose=options.verbose) for mode in options.modes or MODES]
    except (BuildFailed, NotStarted) as error:
        print(f"csi-sanity could not run: {error}", file=sys.stderr)
        return 1
    return 1 if any(outcome.failed or not outcome.passed for outcome in outcomes) else 0


def run(program: Path, mode: str, *, verbose: bool = False) -> Outcome:
    """One mode from start to clean-up; prints as it goes."""
    folder = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    try:
        with daemon(folder, attach=MODES[mode][1]) as socket:
            print(f"csi-sanity {mode}: daemon serves on {socket}", flush=True)
            outcome = _sanity(program, socket, folder, mode, verbose=verbose)
        outcome.failures += [f"left behind: {thing}" for thing in _left(folder)]
        outcome.failed += sum(failure.startswith("left behind") for failure in outcome.failures)
    finally:
        _clean(folder)
    _print(outcome, mode)
    return outcome


@contextlib.contextmanager
def daemon(folder: Path, *, attach: bool) -> Iterator[Path]:
    """`nodeplug csi serve` below a folder; gives its socket."""
    work, socket = folder / "work", folder / "csi.sock"
    work.mkdir()
    settings = ["embedded_size=4GiB", "node_id=sanity-node", "volume_limit=20", f"allowed_roots=['{work}']"]
    (folder / "cgroup" / "kubepods").mkdir(parents=True)
    (folder / "cgroup" / "cgroup.controllers").write_text("io\n")
    (folder / "cgroup" / "kubepods" / "io.max").touch()
    settings += ["expansion=controller", f"cgroup_root={folder / 'cgroup'}", f"attach={str(attach).lower()}"]
    argv = [sys.executable, "-m", "plugins", "csi", "serve", "--kubelet-dir", str(folder / "kubelet")]
    argv += ["--state-dir", str(folder / "state"), "--socket", str(socket)]
    argv += [part for setting in settings for part in ("--set", setting)]
    log = folder / "daemon.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(argv, cwd=ROOT, stderr=sink)
    try:
        _wait(process, socket, log)
        yield socket
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    pause = threading.Event()
    for _ in range(int(_START_S / 0.02)):
        if socket.exists():
            return
        if process.poll() is not None:
            break
        pause.wait(0.02)
    raise NotStarted(log.read_text()[-4000:])


def _sanity(program: Path, socket: Path, folder: Path, mode: str, *, verbose: bool) -> Outcome:
    report = folder / "report.json"
    work = folder / "work"
    mutable = folder / "mutable.yaml"
    mutable.write_text('readIOPS: "1000"\nwriteBytesPerSecond: 100Mi\n')
    argv = [
        str(program),
        f"--csi.endpoint=unix://{socket}",
        f"--csi.mountdir={work / 'mount'}",
        f"--csi.stagingdir={work / 'staging'}",
        f"--csi.testvolumesize={VOLUME_SIZE}",
        f"--csi.testvolumemutableparameters={mutable}",
        f"--csi.testvolumeaccesstype={MODES[mode][0]}",
        f"--csi.testvolumeexpandsize={EXPANDED_SIZE}",
        "--csi.testnodevolumeattachlimit",
        f"--ginkgo.json-report={report}",
        *(f"--ginkgo.skip={spec}" for spec in BROKEN),
        "--ginkgo.no-color",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_RUN_S, check=False, cwd=folder)
    if verbose or not report.exists():
        print(done.stdout, done.stderr, flush=True)
    return parse(json.loads(report.read_text())) if report.exists() else Outcome(0, 1, 0, collections.Counter(), [])


def parse(report: list[dict[str, object]]) -> Outcome:
    """Ginkgo's JSON report in numbers, with the reason of every skip."""
    outcome = Outcome(0, 0, 0, collections.Counter(), [])
    for suite in report:
        specs = suite["SpecReports"]
        assert isinstance(specs, list)
        for spec in specs:
            if spec["LeafNodeType"] == "It":
                _count(outcome, spec)
    return outcome


def _count(outcome: Outcome, spec: dict[str, object]) -> None:
    containers = spec.get("ContainerHierarchyTexts") or []
    assert isinstance(containers, list)
    failure = spec.get("Failure") or {}
    assert isinstance(failure, dict)
    reason = str(failure.get("Message", "")).strip() or BROKEN.get(str(spec["LeafNodeText"]), "")
    match spec["State"]:
        case "passed":
            outcome.passed += 1
        case "pending":
            outcome.pending += 1
        case "skipped":
            outcome.skips[" / ".join(text.removeprefix("Controller Service ") for text in containers), reason] += 1
        case state:
            outcome.failed += 1
            outcome.failures.append(f"{' / '.join([*containers, str(spec['LeafNodeText'])])}: {state}: {reason}")


def _print(outcome: Outcome, mode: str) -> None:
    for failure in outcome.failures:
        print(f"  FAILED {failure}")
    for (group, reason), count in sorted(outcome.skips.items()):
        print(f"  {count:3} skipped  {group}: {reason or 'no reason given'}")
    if outcome.pending:
        print(f"  {outcome.pending:3} pending upstream")
    counts = f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
    print(f"csi-sanity: {counts} ({mode})", flush=True)


def _left(folder: Path) -> list[str]:
    """Mounts and loop devices that belong to a folder."""
    found = leaks.below([str(folder)], leaks.snapshot())
    return [f"{kind} {name}" for kind in ("mount", "loop device") for name in found[kind]]


def _clean(folder: Path) -> None:
    """Whatever happened: no mount, no device, no file stays."""
    found = leaks.below([str(folder)], leaks.snapshot())
    for path in sorted(found["mount"], reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False)
    for name in found["loop device"]:
        subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=False)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
