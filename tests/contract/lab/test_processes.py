"""The supervisor starts, kills and stops real daemons, and says why one did not come up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.lab.errors import LabError, Timeout
from plugins.lab.processes import Process, ProcessFailed, Supervisor

WAIT = 30.0


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    with Supervisor(folder / "logs") as made:
        yield made


@pytest.fixture
def kms(folder: Path, supervisor: Supervisor) -> Process:
    return supervisor.daemon(
        "kms",
        kubelet_dir=folder,
        state_dir=folder / "state",
        socket=folder / "kms.sock",
        settings=[f"keyring={folder / 'keyring.json'}"],
    )


def make_keyring(folder: Path) -> None:
    command = [sys.executable, "-m", "plugins", "kms", "init", "--keyring", str(folder / "keyring.json")]
    subprocess.run(command, check=True, capture_output=True)


def test_a_daemon_is_found_serving_killed_started_again_and_stopped(folder: Path, kms: Process) -> None:
    make_keyring(folder)
    kms.start()
    kms.wait_serving(folder / "kms.sock", timeout=WAIT)
    first = kms.pid
    kms.kill()
    assert kms.exit_code() == -signal.SIGKILL
    kms.start()
    kms.wait_serving(folder / "kms.sock", timeout=WAIT)
    assert kms.pid != first
    assert kms.stop() == 0


def test_a_daemon_that_ends_instead_says_why(folder: Path, kms: Process) -> None:
    kms.start()
    with pytest.raises(ProcessFailed, match=r"kms ended with exit code 2: .*keyring"):
        kms.wait_serving(folder / "kms.sock", timeout=WAIT)


def test_one_that_neither_serves_nor_ends_is_given_up(folder: Path, supervisor: Supervisor) -> None:
    idle = supervisor.process("idle", ["sleep", "60"])
    idle.start()
    with pytest.raises(Timeout, match="idle did not serve"):
        idle.wait_serving(folder / "nobody.sock", timeout=0.2)
    with pytest.raises(LabError, match="is running already"):
        idle.start()


def test_one_that_ignores_sigterm_is_killed(supervisor: Supervisor) -> None:
    stubborn = supervisor.process("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do read x; done"])
    stubborn.start()
    assert stubborn.stop(timeout=0.2) in (-signal.SIGKILL, -signal.SIGTERM)


def test_nothing_is_left_when_the_block_ends(folder: Path) -> None:
    with Supervisor(folder / "logs") as supervisor:
        processes = [supervisor.process(f"p{i}", ["sleep", "60"]) for i in range(3)]
        for process in processes:
            process.start()
    assert [p.exit_code() for p in processes] == [-signal.SIGTERM] * 3


def test_settings_of_the_person_do_not_reach_the_daemons(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEPLUG_KMS_LOG_LEVEL", "debug")
    monkeypatch.setenv("NODEPLUG_FAULT", "some.point")
    with Supervisor(folder / "logs") as supervisor:
        shown = supervisor.process("env", ["env"])
        shown.start()
        assert shown._running is not None and shown._running.wait() == 0
        text = shown.log.read_text()
    assert "NODEPLUG_KMS_LOG_LEVEL" not in text
    assert "NODEPLUG_FAULT=some.point" in text


def test_the_last_errors_are_told_before_the_last_lines(supervisor: Supervisor) -> None:
    program = supervisor.process("p", ["true"])
    assert program.errors() == []
    program.log.write_text('{"level":"error","message":"bad"}\n{"level":"info","message":"good"}\n')
    assert program.errors() == ['{"level":"error","message":"bad"}']
    program.log.write_text('{"level":"info","message":"good"}\n')
    assert program.errors() == ['{"level":"info","message":"good"}']
