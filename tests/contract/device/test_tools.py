"""`nodeplug device list` and `match` on the devices of this very machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests import processes

RESOURCES = """resources=[
  {name="null", shares=2, select=[{subsystem="mem", name="null"}]},
  {name="rest", select=[{subsystem="mem", name=["null", "zero", "full"]}], exclude=[{node="/dev/full"}]},
]"""


def run(*words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "plugins", "device", *words, "--set", RESOURCES]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=processes.ROOT, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (code, "")
    return ended.stdout


def rows(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*words, "--output", "json"))
    return found


def test_list_shows_what_the_kubelet_would_see() -> None:
    assert [(row["resource"], row["id"], row["node"], row["numbers"], row["health"]) for row in rows("list")] == [
        ("nodeplug.internal/null", "null-s0", "/dev/null", "c 1:3", "Healthy"),
        ("nodeplug.internal/null", "null-s1", "/dev/null", "c 1:3", "Healthy"),
        ("nodeplug.internal/rest", "zero", "/dev/zero", "c 1:5", "Healthy"),
    ]
    lines = run("list").splitlines()
    assert lines[0].split() == ["RESOURCE", "ID", "HEALTH", "NODE", "NUMBERS", "NUMA", "PROBLEM"]
    assert len(lines) == 4


def test_match_tells_the_rule_and_why_not_the_others() -> None:
    found = {row["node"]: row for row in rows("match")}
    assert (found["/dev/null"]["resource"], found["/dev/null"]["why_not"]) == ("null", {"rest": "null comes first"})
    assert (found["/dev/zero"]["resource"], found["/dev/zero"]["why_not"]["null"]) == (
        "rest",
        "name is 'zero', wanted 'null'",
    )
    assert (found["/dev/full"]["resource"], found["/dev/full"]["why_not"]["rest"]) == (None, "exclude[0] takes it out")
    assert found["/dev/random"]["why_not"]["rest"] == "name is 'random', wanted one of 'null', 'zero', 'full'"


def test_match_of_one_device_looks_beyond_the_rules() -> None:
    (row,) = rows("match", "/dev/ptmx")
    assert row["why_not"] == {"null": "subsystem is 'tty', wanted 'mem'", "rest": "subsystem is 'tty', wanted 'mem'"}
    (row,) = rows("match", "/sys/devices/virtual/net/lo")
    assert (row["node"], row["resource"]) == (None, None)
    assert run("match", "/dev/no-such-device", code=1) == "NODE  SUBSYSTEM  RESOURCE  ID  WHY NOT\n"
