"""Filesystems held still for a moment, by a process of its own.

A freeze that nobody ends blocks every writer for ever. So it is not held by the daemon, which may be killed at any
instruction, but by a small program (`freezer.py`) that thaws as soon as the daemon has gone or the time is over.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from plugins.core import command, log
from plugins.core.errors import DeadlineExceeded, FailedPrecondition, Internal
from plugins.csi.host import freezer

logger = log.get("csi.freeze")

_HELPER = str(Path(__file__).with_name("freezer.py"))
_SLACK_S = 2.0  # for the start of the helper, and for its last word


@contextlib.contextmanager
def frozen(roots: Mapping[int, str], limit: float, prepare: Callable[[], None]) -> Iterator[None]:
    """Nothing changes in these filesystems for the length of the block.

    Args:
        roots: descriptors of directories of the mounts, and what to call each in an error.
        prepare: what is to be done right before; while it goes on, the helper starts.
        limit: seconds after which they go on whatever happens.

    Raises:
        FailedPrecondition: one cannot be frozen, or somebody else holds it frozen; none is.
        DeadlineExceeded: they went on before the block had ended: what was done in it does not hold.
    """
    if not roots:
        prepare()
        yield
        return
    doubt = False  # whether one may be frozen still
    try:
        argv = [sys.executable, "-I", "-S", _HELPER, f"{limit:g}", *map(str, roots)]
        with command.Child(argv, fds=list(roots)) as child:
            prepare()
            child.say("freeze")
            word = child.hear(limit + _SLACK_S)
            doubt = word in ("frozen", "")
            _check_frozen(word, roots, limit)
            yield
            child.say("thaw")
            word = child.hear(_SLACK_S)
            doubt = word not in ("thawed", "expired")
            if word != "thawed":
                raise DeadlineExceeded(
                    f"the filesystems went on before the cut was complete (limit {limit:g} s)",
                    detail=f"helper: {word!r}",
                )
    finally:
        if doubt:  # the block raised, or the helper was killed
            for fd in roots:
                freezer.thaw(fd)


def thaw(fd: int) -> None:
    """Let a filesystem go on that an earlier process may have left frozen."""
    freezer.thaw(fd)


def _check_frozen(word: str, roots: Mapping[int, str], limit: float) -> None:
    if word == "frozen":
        return
    kind, *rest = word.split() or [""]
    if kind == "failed" and len(rest) == 2:
        fd, number = int(rest[0]), int(rest[1])
        raise FailedPrecondition(f"{roots[fd]} cannot be frozen: {os.strerror(number)}")
    if kind == "expired":
        raise DeadlineExceeded(f"the filesystems did not come to rest within {limit:g} s; they go on")
    raise Internal("the helper that freezes filesystems did not answer", detail=word)
