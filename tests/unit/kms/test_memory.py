"""Keys in memory: apart from everything else, and gone afterwards."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.kms import memory
from plugins.kms.memory import SecretMemory


def smaps(address: int) -> str:
    """What the kernel says of the mapping at an address."""
    entries = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    for entry in entries:
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", entry):
            start, end = (int(text, 16) for text in head.groups())
            if start <= address < end:
                return entry
    raise AssertionError("no mapping there")


def address(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_not_swapped_not_dumped_not_inherited() -> None:
    area = SecretMemory(64)
    kernel = smaps(address(area.take(64)))
    flags = re.search(r"VmFlags: (.*)", kernel)
    assert flags is not None
    assert {"dd", "dc"} <= set(flags.group(1).split())
    assert area.locked == ("lo" in flags.group(1).split())


def test_zeroed_when_the_last_user_lets_go() -> None:
    area = SecretMemory(64)
    view = area.take(64)
    view[:] = b"k" * 64
    other = view[:32]
    del area
    gc.collect()
    assert bytes(other) == bytes(32)


def test_slices_do_not_overlap() -> None:
    area = SecretMemory(96)
    one, two = area.take(32), area.take(64)
    one[:], two[:] = b"1" * 32, b"2" * 64
    assert bytes(one) == b"1" * 32
    with pytest.raises(ValueError, match="no room left"):
        area.take(1 << 20)


def test_a_limit_on_locked_memory_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def mlock(self, *args: object) -> int:
            return -1

    monkeypatch.setattr(memory, "_libc", Refusing())
    area = SecretMemory(64)
    assert not area.locked
    assert len(area.take(64)) == 64


def test_the_process_leaves_no_core() -> None:
    """In a process of its own: it cannot be undone."""
    code = (
        "import ctypes, resource\n"
        "from plugins.kms import memory\n"
        "memory.harden_process()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "0"]
