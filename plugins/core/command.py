"""The only way to a subprocess: an argument list, a deadline, no shell.

`subprocess` is used so that CPython takes the vfork path (no preexec_fn, user=, group=): grpcio's threads do not
survive a plain fork. Facts: grpc "fork_support", and a child that sat between fork and exec in measurements.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
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


class Child:
    """A program that stays for the length of a block and is spoken to in short lines.

    At the end of the block its input is closed, which it must take as the order to end.
    """

    def __init__(self, argv: Sequence[str], *, fds: Sequence[int] = (), grace: float = 5.0) -> None:
        """
        Args:
            fds: descriptors that it gets under the same numbers.
            grace: seconds that it may take to end; then it is killed.

        Raises:
            CommandMissing: there is no such program.
        """
        self._grace = grace
        self._heard = b""
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=tuple(fds),
                env=_environment(None),
                bufsize=0,
            )
        except FileNotFoundError as error:
            raise CommandMissing(f"the program {argv[0]!r} is not installed on this node") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def say(self, line: str) -> None:
        """Write a line; a program that has ended already hears nothing, and `hear` will tell."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")

    def hear(self, timeout: float) -> str:
        """The next line, without its end; "" where it has ended or said nothing for `timeout` seconds."""
        assert self._process.stdout
        until = time.monotonic() + timeout
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not more:
                return ""
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode("utf-8", "replace")


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return dict(os.environ, LC_ALL="C") if env is None else dict(env)
