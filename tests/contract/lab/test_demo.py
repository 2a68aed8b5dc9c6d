"""`nodeplug demo` from outside: what it prints, how it ends, and that it leaves nothing on any way out."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.lab.paths import mounted_below
from tools import leaks

ROOT = os.geteuid() == 0
WAIT = 60.0
COMMAND = [sys.executable, "-m", "plugins", "demo"]
NEEDS_ROOT = pytest.mark.skipif(not ROOT, reason="volumes need root")


@pytest.fixture
def data(folder: Path) -> Path:
    """A small tree with all that a tree can have."""
    path = folder / "data"
    (path / "sub" / "empty").mkdir(parents=True)
    (path / "sub" / "script").write_bytes(b"#!/bin/sh\n")
    (path / "sub" / "script").chmod(0o755)
    (path / "binary").write_bytes(bytes(range(256)) * 5000)
    (path / "link").symlink_to("sub/script")
    return path


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where a demo may make something; empty again at the end, with nothing mounted or attached."""
    path = folder / "t"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    assert list(path.iterdir()) == []
    assert mounted_below(path) == []
    assert [name for name, image in leaks.loops().items() if image.startswith(str(path))] == []
    assert [argv for argv in leaks.processes().values() if str(path) in argv] == []


def demo(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env={**os.environ, **environment},
        check=False,
    )


def statuses(report: dict[str, Any], part: str) -> set[str]:
    return {step["status"] for step in report["steps"] if step["part"] == part}


def test_everything_that_can_run_here_runs(data: Path, temporary: Path) -> None:
    done = demo("--data", data, "--output", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert statuses(report, "devices") == statuses(report, "kms") == {"ok"}
    assert statuses(report, "volume") == ({"ok"} if ROOT else {"skipped"})
    facts = {step["step"]: step.get("facts", {}) for step in report["steps"]}
    assert facts["store the Secret 'before'"]["begins"] == "k8s:enc:kms:v2:"
    assert facts["rotate the key"]["new_key_id"] == facts["store the Secret 'after'"]["key_id"]
    assert facts["read old and new values"] == {"seen": 2, "rewritten": 1}
    if ROOT:
        assert facts["fill it with a directory tree"]["files"] == 2


def test_the_table_is_for_people_and_has_no_colours_where_none_are_wanted(data: Path, temporary: Path) -> None:
    plain = demo("--data", data, "--no-color", FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="120")
    assert plain.returncode == 0, plain.stderr
    assert "read old and new values" in plain.stdout
    assert re.findall(r"\x1b\[(?:\d+;)*[349]\d[;m]", plain.stdout + plain.stderr) == []
    assert "devices" in plain.stderr  # progress, while it works


def test_a_wrong_option_is_a_usage_error(folder: Path) -> None:
    done = demo("--data", folder / "nowhere")
    assert done.returncode == 2
    assert "there is no such directory" in done.stderr


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("fault", "step"),
    [("csi.create.announced", "create a volume"), ("csi.stage.mounted", "stage and publish it")],
)
def test_a_daemon_that_dies_in_the_middle_fails_the_step(data: Path, temporary: Path, fault: str, step: str) -> None:
    done = demo("--data", data, "--output", "json", NODEPLUG_FAULT=fault)
    assert done.returncode == 1
    assert f"failed: volume: {step}" in done.stderr
    assert "the csi daemon's log ends with" in done.stderr
    failed = json.loads(done.stdout)["steps"][-1]
    assert (failed["part"], failed["step"], failed["status"]) == ("volume", step, "failed")


@contextmanager
def running(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], None]]]:
    """A demo under way, and a function that waits until its progress names a step."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)

        def until(words: str) -> None:
            seen = []
            for line in lines:
                seen.append(line)
                if words in line:
                    return
            pytest.fail(f"{words!r} never came: {''.join(seen)}")

        try:
            yield process, until
        finally:
            process.kill() if process.poll() is None else None


STEPS = ["start as processes", "list this machine's devices", "serve the API server"]
if ROOT:
    STEPS += ["create a volume", "stage and publish it", "fill it", "kill -9"]


@pytest.mark.parametrize(
    ("step", "number"), list(zip(STEPS, itertools.cycle([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]), strict=False))
)
def test_an_interruption_leaves_nothing(data: Path, temporary: Path, step: str, number: signal.Signals) -> None:
    with running("--data", data) as (process, until):
        until(step)
        process.send_signal(number)
        process.communicate(timeout=WAIT)
        assert process.returncode == 128 + number


def test_signals_during_the_clean_up_do_not_cut_it_short(data: Path, temporary: Path) -> None:
    with running("--data", data) as (process, until):
        until("start as processes")
        for _ in range(5):
            process.send_signal(signal.SIGINT)
        until("cleaning up")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)
        assert process.returncode == 130


def test_keep_leaves_everything_running_until_it_is_interrupted(data: Path, temporary: Path) -> None:
    with running("--data", data, "--keep", "--output", "json") as (process, until):
        until("To try, in another terminal")
        socket = next(temporary.glob("np-demo-*/kms.sock"))
        probe = subprocess.run(
            [sys.executable, "-m", "plugins", "probe", str(socket)], capture_output=True, text=True, check=False
        )
        assert probe.stdout == "SERVING\n"
        until("ctrl-C ends it")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT)
        assert process.returncode == 0
        assert json.loads(out)["ok"] is True


@NEEDS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_root_the_rest_runs_and_it_says_what_is_missing(folder: Path) -> None:
    place = folder / "nobody"
    place.mkdir()
    os.chown(place, 65534, 65534)
    folder.chmod(0o711)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    if subprocess.run([*drop, "sh", "-c", f"exec {sys.executable} -c ''"], check=False, capture_output=True).returncode:
        pytest.skip("another user may not run this Python")
    done = subprocess.run(
        [*drop, *COMMAND, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env={**os.environ, "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [s["result"] for s in report["steps"] if s["part"] == "volume"] == ["needs root: sudo ./dev demo"]
    assert statuses(report, "devices") == statuses(report, "kms") == {"ok"}
    assert list(place.iterdir()) == []
