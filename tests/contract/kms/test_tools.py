"""The commands for people: what they print, what they refuse, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.kms.daemon_kit import ROOT, KmsDaemon, run, tool


@pytest.fixture
def keyring(short_tmp: Path) -> Path:
    path = short_tmp / "keyring.json"
    tool("init", "--keyring", str(path), "--cluster", "prod-1", "--provider", "local")
    return path


def test_init_makes_a_keyring_and_never_a_second(keyring: Path) -> None:
    before = keyring.read_bytes()
    done = run("init", "--keyring", str(keyring))
    assert (done.returncode, keyring.read_bytes()) == (1, before)
    assert "never overwritten" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--cluster", "a b"), ("--provider", "x:y"), ("--owner", "nobody"), ("--owner", "1:x"), ("--what",)]
)
def test_init_refuses_what_it_cannot_use(short_tmp: Path, arguments: tuple[str, ...]) -> None:
    assert run("init", "--keyring", str(short_tmp / "keyring.json"), *arguments).returncode == 2
    assert os.listdir(short_tmp) == []


def test_keys_for_people(keyring: Path) -> None:
    tool("rotate", "--keyring", str(keyring))
    first, header, *rows = tool("keys", "--keyring", str(keyring)).splitlines()
    assert first.split() == ["cluster", "prod-1", "provider", "local", "generation", "2"]
    assert header.split()[:3] == ["KEY_ID", "STATE", "VERSION"]
    assert [row.split()[1:3] for row in rows] == [["retiring", "1"], ["active", "2"]]


def test_keys_for_programs(keyring: Path) -> None:
    listed = json.loads(tool("keys", "--keyring", str(keyring), "--output", "json"))
    assert (listed["cluster"], listed["provider"], listed["generation"]) == ("prod-1", "local", 1)
    assert sorted(listed["keys"][0]) == ["changed", "created", "epoch", "key_id", "key_id_hash", "state", "version"]


def test_no_command_prints_key_bytes(keyring: Path) -> None:
    printed = [tool("rotate", "--keyring", str(keyring), *step) for step in ((), ("--stage",), ("--activate",))]
    printed += [tool("keys", "--keyring", str(keyring), "--output", form) for form in ("table", "json")]
    printed.append(tool("check-config", "--set", f"keyring={keyring}"))
    secrets = [key["secret"] for key in json.loads(keyring.read_text())["keys"]]
    assert len(secrets) == 3
    assert not [secret for secret in secrets if secret in "".join(printed)]


def test_rotate_in_two_steps(keyring: Path) -> None:
    assert run("rotate", "--keyring", str(keyring), "--activate").returncode == 2
    assert "Copy" in tool("rotate", "--keyring", str(keyring), "--stage")
    done = run("rotate", "--keyring", str(keyring))
    assert (done.returncode, "--activate" in done.stderr) == (2, True)
    tool("rotate", "--keyring", str(keyring), "--activate")
    assert run("rotate", "--keyring", str(keyring), "--stage", "--activate").returncode == 2


def test_two_rotations_at_once_lose_no_key(keyring: Path) -> None:
    argv = [sys.executable, "-m", "plugins", "kms", "rotate", "--keyring", str(keyring)]
    started = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(6)]
    codes = [process.wait(60) for process in started]
    assert set(codes) <= {0, 1}
    listed = json.loads(tool("keys", "--keyring", str(keyring), "--output", "json"))
    assert listed["generation"] == len(listed["keys"]) == 1 + codes.count(0)


def test_status(kms: KmsDaemon) -> None:
    client = kms.start()
    told = json.loads(tool("status", str(kms.socket), "--output", "json"))
    assert told["key_id"] == client.look().key_id
    assert (told["version"], told["healthz"], told["generation"], told["problems"]) == ("v2", "ok", 1, [])
    assert tool("status", str(kms.socket)).splitlines()[-1].split() == ["generation", "1"]


def test_status_of_nobody(kms: KmsDaemon) -> None:
    assert run("status", str(kms.socket)).returncode == 3
    kms.start()
    kms.end(signal.SIGKILL)
    assert run("status", str(kms.socket)).returncode == 3


def test_status_of_somebody_silent(short_tmp: Path) -> None:
    path = short_tmp / "s"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        assert run("status", str(path), "--timeout", "0.2").returncode == 3


def test_the_example_configuration_is_the_default(short_tmp: Path) -> None:
    example = short_tmp / "kms.toml"
    example.write_text(tool("example-config"))
    assert "keyring =" in example.read_text()
    done = run("check-config", "--config", str(example), "--set", f"keyring={short_tmp / 'none.json'}")
    assert (done.returncode, "kms init" in done.stderr) == (2, True)
