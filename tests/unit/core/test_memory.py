"""Only pages that equal their file are given back, and the process goes on as before."""

from __future__ import annotations

import subprocess
import sys

from plugins.core.memory import clean_file_mappings

SMAPS = """\
1000-3000 r-xp 00000000 fe:00 77 /usr/lib/clean-text.so
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r-xp 00002000 fe:00 77 /usr/lib/with-a-breakpoint.so
Anonymous:             4 kB
4000-5000 r--p 00003000 fe:00 77 /usr/lib/relocated.so
Anonymous:             4 kB
5000-6000 r--p 00003000 fe:00 77 /usr/lib/constants.so (deleted)
Anonymous:             0 kB
6000-7000 rw-p 00003000 fe:00 77 /usr/lib/data.so
Anonymous:             0 kB
7000-8000 r--s 00003000 fe:00 77 /usr/lib/shared-cache
Anonymous:             0 kB
8000-9000 r-xp 00000000 00:00 0
Anonymous:             0 kB
9000-a000 r-xp 00000000 00:00 0                                  [vdso]
Anonymous:             0 kB
"""


def test_only_private_readonly_file_mappings_without_pages_of_their_own() -> None:
    assert list(clean_file_mappings(SMAPS)) == [(0x1000, 0x2000), (0x5000, 0x1000)]


def test_a_process_works_after_it_and_holds_less() -> None:
    program = """
import os, grpc, sqlite3, json
def rss(): return next(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Rss:'))
from plugins.core import memory
before = rss(); memory.settle(); after = rss()
sqlite3.connect(':memory:').execute('select 1'); grpc.insecure_channel('unix:/none').close()
print(json.dumps([before, after]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    before, after = (int(number) for number in done.stdout.strip("[]\n").split(","))
    assert after < before - 4096
