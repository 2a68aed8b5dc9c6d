"""Servers as processes of their own: started, waited for, ended, on every way out."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import grpc

READY_WITHIN = 30.0  # seconds

T = TypeVar("T")


class Failed(Exception):
    """A server did not come up; the message has the end of its log."""


@contextlib.contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to a file; at the end it is asked to stop, and made to."""
    with log.open("ab") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def serving(argv: Sequence[str], socket: Path) -> Iterator[Path]:
    """A server whose socket accepts; its log lies beside the socket."""
    log = socket.with_suffix(".log")
    with running(argv, log) as process:
        channel = open_channel(socket)
        try:
            grpc.channel_ready_future(channel).result(timeout=READY_WITHIN)
        except grpc.FutureTimeoutError as error:
            raise Failed(f"{shlex.join(argv)} does not accept on {socket}: {tail(log)}") from error
        finally:
            channel.close()
        if process.poll() is not None:
            raise Failed(f"{shlex.join(argv)} ended with {process.returncode}: {tail(log)}")
        yield socket


def nodeplug(daemon: str, root: Path, *settings: str) -> list[str]:
    """The command line of a daemon whose every file lies below root.

    Its public socket is root/DAEMON.sock, but for the device daemon, whose contract says where sockets lie.
    """
    for folder in ("plugins", "plugins_registry", "device-plugins", "pods"):
        (root / "kubelet" / folder).mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "plugins", daemon, "serve"]
    argv += ["--kubelet-dir", str(root / "kubelet"), "--state-dir", str(root / f"{daemon}-state")]
    if daemon != "device":
        argv += ["--socket", str(root / f"{daemon}.sock")]
    return argv + [word for setting in settings for word in ("--set", setting)]


def bare(socket: Path, kind: str) -> list[str]:
    """The command line of the bare server."""
    return [sys.executable, "-m", "benchmarks.bare_server", str(socket), kind]


def peer(command: str, socket: Path) -> list[str]:
    """The command line of a peer; {socket} in it stands for the socket's path."""
    return [word.replace("{socket}", str(socket)) for word in shlex.split(command)]


def open_channel(socket: Path) -> grpc.Channel:
    """A connection of its own to a socket; the same client for every side of a comparison."""
    options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    return grpc.insecure_channel(f"unix:{socket}", options=options)


def wait_for(check: Callable[[], T | None], what: str, log: Path, process: subprocess.Popen[bytes]) -> T:
    """Look every half millisecond until check finds something."""
    deadline = time.monotonic() + READY_WITHIN
    while (found := check()) is None:
        if time.monotonic() > deadline or process.poll() is not None:
            raise Failed(f"{what} did not come (exit code {process.poll()}): {tail(log)}")
        time.sleep(0.0005)
    return found


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
