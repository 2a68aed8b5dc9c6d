"""The only way to a subprocess: an argument list, a deadline, no shell.

`subprocess` is used so that CPython takes the vfork path (no preexec_fn, user=, group=): grpcio's threads do not
survive a plain fork. Facts: grpc "fork_support", and a child that sat between fork and exec in measurements.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugins.core.errors import DeadlineExceeded, Internal

_OUTPUT_LIMIT = 4096  # bytes of a failed command's output that go into the log


@dataclass(frozen=True)
class Result:
    """What a command left behind. stdout and stderr are bytes: names on a filesystem need not be text."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """stdout as text."""
        return self.stdout.decode("utf-8", "replace")


class CommandFailed(Internal):
    """The command ended with another code than 0."""

    def __init__(self, result: Result) -> None:
        output = (result.stderr or result.stdout).decode("utf-8", "replace").strip()
        super().__init__(
            f"{Path(result.argv[0]).name} failed with exit code {result.returncode}",
            detail=f"{list(result.argv)}: {output[-_OUTPUT_LIMIT:]}",
        )
        self.result = result


class CommandMissing(Internal):
    """The program is not installed."""


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    check: bool = True,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a program and wait for its end.

    Args:
        argv: program and arguments; no shell ever sees them.
        timeout: seconds, after which the program is killed.
        check: whether another exit code than 0 is an error.
        stdin: what the program reads.
        env: its whole environment; None inherits ours, with the messages in English (LC_ALL=C).

    Raises:
        CommandFailed: exit code not 0 (only with check).
        CommandMissing: there is no such program.
        DeadlineExceeded: it did not end in time; it was killed.
    """
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=timeout, check=False, env=_environment(env)
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(
            f"{argv[0]} did not end within {timeout:g} s and was killed", detail=f"{list(argv)}"
        ) from error
    except FileNotFoundError as error:
        raise CommandMissing(f"the program {argv[0]!r} is not installed on this node") from error
    result = Result(tuple(argv), done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        raise CommandFailed(result)
    return result


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return dict(os.environ, LC_ALL="C") if env is None else dict(env)
