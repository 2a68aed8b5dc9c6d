"""The demo's own parts: interruptions, trees, the report, the sweep."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from plugins.demo import options, trees, workspace
from plugins.demo.interrupts import Interrupted, Interrupts
from plugins.demo.report import Report, StepFailed, brief, human
from plugins.demo.trees import Source
from plugins.lab.errors import LabError


def interrupt(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_raises_inside_the_allowed_block() -> None:
    with Interrupts() as interrupts, pytest.raises(Interrupted) as caught, interrupts.allowed():
        interrupt()
    assert caught.value.number == signal.SIGTERM


def test_a_signal_waits_outside_of_it() -> None:
    done = []
    with Interrupts() as interrupts:
        interrupt(signal.SIGINT)
        done.append("prepared")
        with pytest.raises(Interrupted) as caught, interrupts.allowed():
            done.append("never")
        interrupt()
        done.append("cleaned up")
    assert done == ["prepared", "cleaned up"]
    assert caught.value.number == signal.SIGINT


def test_what_is_held_is_finished_first() -> None:
    done = []
    with Interrupts() as interrupts, pytest.raises(Interrupted), interrupts.allowed():
        with interrupts.held():
            interrupt()
            done.append("made and registered")
        done.append("never")
    assert done == ["made and registered"]


def test_an_error_in_a_held_block_is_not_lost() -> None:
    with Interrupts() as interrupts, pytest.raises(ValueError, match="mine"), interrupts.allowed(), interrupts.held():
        raise ValueError("mine")


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "a" / "empty").mkdir(parents=True)
    (path / "a" / "file").write_bytes(b"x" * 5000)
    (path / "a" / "file").chmod(0o640)
    (path / "skipped").mkdir()
    (path / "skipped" / "file").write_text("y")
    (path / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "fifo")
    return path


def test_a_copy_is_the_same_tree(tree: Path, tmp_path: Path) -> None:
    source = Source(tree, frozenset({"skipped"}))
    copied = trees.copy(source, tmp_path / "copy")
    assert copied == trees.read(Source(tmp_path / "copy"))
    assert (copied.files, copied.bytes) == (1, 5000)
    assert not (tmp_path / "copy" / "fifo").exists()
    assert not (tmp_path / "copy" / "skipped").exists()
    assert trees.size(source) >= 5000


@pytest.mark.parametrize(
    "change",
    [
        lambda p: (p / "a" / "file").write_bytes(b"x" * 4999 + b"y"),
        lambda p: (p / "a" / "file").chmod(0o600),
        lambda p: (p / "a" / "file").rename(p / "a" / "other"),
        lambda p: (p / "a" / "empty").rmdir(),
        lambda p: ((p / "dangling").unlink(), (p / "dangling").symlink_to("elsewhere")),
    ],
    ids=["content", "mode", "name", "folder", "link"],
)
def test_every_change_changes_the_checksum(tree: Path, change: object) -> None:
    before = trees.read(Source(tree))
    assert callable(change)
    change(tree)
    assert trees.read(Source(tree)).digest != before.digest


def test_the_standard_library_is_there_without_what_was_installed() -> None:
    source = trees.standard_library()
    assert (source.path / "json" / "__init__.py").exists()
    assert "site-packages" in source.skip


def test_a_report_tells_of_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(colour=False)
    with report.step("part", "a good step") as step:
        step.result = "as it should be"
        step.facts = {"number": 1}
    report.skip("other", "not here")
    with pytest.raises(StepFailed, match="part: a bad step: broken"), report.step("part", "a bad step"):
        raise LabError("broken")
    report.json(ok=False)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["ok"] is False
    assert [(s["step"], s["status"], s["result"]) for s in told["steps"]] == [
        ("a good step", "ok", "as it should be"),
        ("not run", "skipped", "not here"),
        ("a bad step", "failed", "broken"),
    ]
    assert told["steps"][0]["facts"] == {"number": 1}
    assert "a good step: as it should be" in err


def test_an_interrupted_step_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(colour=False)
    with pytest.raises(Interrupted), report.step("part", "long"):
        raise Interrupted(signal.SIGINT)
    assert report.steps == []


@pytest.mark.parametrize(("colour", "environment"), [(False, {}), (True, {"NO_COLOR": "1"})])
def test_colours_can_be_turned_off(
    colour: bool, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report = Report(colour=colour)
    with report.step("part", "step") as step:
        step.result = "fine"
    report.table()
    out, err = capsys.readouterr()
    assert "fine" in out
    assert re.findall(r"\x1b\[(?:\d+;)*[349]\d[;m]", out + err) == []


def test_a_log_line_is_shown_without_its_braces() -> None:
    line = json.dumps({"time": "T", "level": "error", "logger": "csi", "message": "no space", "free_bytes": 3})
    assert brief(line) == "T error csi: no space free_bytes=3"
    assert brief("Traceback (most recent call last):") == "Traceback (most recent call last):"
    assert len(brief("x" * 10_000)) < 1000


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_the_options_have_defaults() -> None:
    parsed = options.parse([])
    assert (parsed.keep, parsed.json, parsed.colour) == (False, False, True)


def test_a_folder_is_short_enough_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(long))
    made = workspace.make()
    assert len(str(made)) <= 40
    (made / "file").write_text("x")
    assert workspace.sweep(made) == []
    assert workspace.sweep(made) == []  # may be repeated
    assert not made.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts and loop devices need root")
def test_the_sweep_takes_mounts_and_loop_devices_too() -> None:
    """As a killed daemon leaves them: a filesystem on a loop device, its image on another such filesystem."""
    root = workspace.make()
    for outer, inner in ((root, root / "outer"), (root / "outer", root / "inner")):
        image = outer / "image"
        with image.open("wb") as file:
            file.truncate((64 if outer == root else 8) << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        inner.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(inner)], check=True)
    target = root / "target"
    target.mkdir()
    subprocess.run(["mount", "--bind", str(root / "inner"), str(target)], check=True)
    assert len(workspace._loops(root)) == 2
    assert workspace.sweep(root) == []
    assert not root.exists()
    assert workspace._loops(root) == []
