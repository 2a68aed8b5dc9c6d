"""What the look for left-overs must see, and what it must not take for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools import leaks


def test_a_process_is_found_by_its_mark_and_gone_when_it_ended() -> None:
    mark = f"NODEPLUG_TEST_LEAK={os.getpid()}"
    name, _, value = mark.partition("=")
    sleeper = [sys.executable, "-c", "input()"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, env={**os.environ, name: value}) as process:
        assert list(leaks.processes(mark)) == [str(process.pid)]
        process.communicate(b"\n")
    assert leaks.processes(mark) == {}


def test_a_daemon_is_known_by_its_command_line() -> None:
    assert leaks._is_ours(["python", "-m", "plugins", "csi", "serve"])
    assert leaks._is_ours(["/usr/bin/python3", "/usr/local/bin/nodeplug", "kms", "serve"])
    assert not leaks._is_ours(["python", "-m", "pytest", "plugins"])
    assert not leaks._is_ours([""])


def test_only_what_belongs_to_the_folders_is_counted() -> None:
    now: leaks.Snapshot = {
        "loop device": {"loop1": "/tmp/np-a/pool.img (deleted)", "loop2": "/tmp/np-ab/pool.img"},
        "mount": {"/tmp/np-a/mnt": "/dev/loop1", "/tmp/np-a": "tmpfs", "/": "/dev/vda"},
        "process": {},
        "folder": {"/tmp/np-a": "", "/tmp/np-ab": ""},
    }
    found = leaks.below(["/tmp/np-a"], now)
    assert list(found["loop device"]) == ["loop1"]
    assert sorted(found["mount"]) == ["/tmp/np-a", "/tmp/np-a/mnt"]
    assert list(found["folder"]) == ["/tmp/np-a"]


def test_a_reused_name_with_another_meaning_is_new() -> None:
    before: leaks.Snapshot = {"loop device": {"loop0": "/a"}}
    assert leaks.new(before, {"loop device": {"loop0": "/b"}}) == ["loop device loop0 /b"]
    assert leaks.new(before, {"loop device": {"loop0": "/a"}}) == []


def test_a_snapshot_sees_this_machine(short_tmp: Path) -> None:
    now = leaks.snapshot()
    assert "/proc" in now["mount"]
    assert str(short_tmp) in now["folder"]
