"""Signals as events, whichever thread the kernel chose to deliver them to.

Python runs signal handlers in the main thread only, when it next executes bytecode: a main thread that waits for a
lock or a socket hears nothing of a SIGTERM that another thread's system call was interrupted by. The wake-up
descriptor is written by the C handler itself, in any thread, and a thread of ours reads it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable


def listen(numbers: Iterable[int], on_signal: Callable[[int], None]) -> None:
    """Call on_signal(number), in a thread of its own, for each of these signals from now on. Main thread only."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in numbers:
        signal.signal(number, _ignore)  # a Python handler must be there for the C handler to be installed

    def wait() -> None:
        while True:
            for number in os.read(read, 64):
                on_signal(number)

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _ignore(number: int, frame: object) -> None:
    """The wake-up descriptor has told already."""
