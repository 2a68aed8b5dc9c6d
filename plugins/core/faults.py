"""Named points at which a test can kill the process, as power loss would.

`NODEPLUG_FAULT=csi.create.image` makes the process end by SIGKILL when it reaches that point;
`NODEPLUG_FAULT=csi.create.image:3` when it reaches it for the third time. Without the variable a point costs one
comparison. Every multi-step operation has a point after each step, so that "killed at any instruction" is tested.
"""

from __future__ import annotations

import itertools
import os
import signal

_name, _, _nth = os.environ.get("NODEPLUG_FAULT", "").partition(":")
_reached = itertools.count(1)


def point(name: str) -> None:
    """End this process by SIGKILL if the fault of this name was asked for; else do nothing."""
    if name == _name and next(_reached) >= int(_nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
