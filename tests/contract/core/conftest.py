"""Processes of the test plugin, on a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugins.api.kms.v2 import kms_pb2, kms_pb2_grpc
from plugins.core import client

PLUGIN = Path(__file__).with_name("echo_plugin.py")
ROOT = Path(__file__).parents[3]


class Process:
    """One process of the test plugin. `log` is its standard error, JSON lines."""

    def __init__(self, root: Path, *flags: str, faults: str = "") -> None:
        self.root = root
        self.log = root / f"log.{len(list(root.glob('log.*')))}"
        arguments = ["serve", "--kubelet-dir", str(root / "k"), "--state-dir", str(root / "s")]
        for flag in flags:
            arguments += ["--set", flag]
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, str(PLUGIN), *arguments],
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "NODEPLUG_FAULT": faults},
            )

    @property
    def socket(self) -> Path:
        return self.root / "k/plugins/echo.test.internal/echo.sock"

    @property
    def registration_socket(self) -> Path:
        return self.root / "k/plugins_registry/echo.test.internal-reg.sock"

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_for(self, message: str, timeout: float = 20.0) -> dict[str, Any]:
        """The first log line with that message; fails when the process ends or the time is over before it comes."""
        from inotify_simple import INotify, flags

        with INotify() as watch:
            watch.add_watch(self.log, flags.MODIFY)
            for _ in range(int(timeout * 10)):
                for line in self.lines():
                    if line["message"] == message:
                        return line
                assert self.popen.poll() is None or message in self.text(), self.text()
                watch.read(timeout=100)
        raise AssertionError(f"no line {message!r} within {timeout} s:\n{self.text()}")

    def serving(self) -> Process:
        """Wait until it serves."""
        self.wait_for("serving")
        return self

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines(keepends=True) if line.endswith("}\n")]

    def text(self) -> str:
        return self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(30)

    @contextlib.contextmanager
    def kms(self) -> Iterator[kms_pb2_grpc.KeyManagementServiceStub]:
        with client.channel(self.socket) as channel:
            yield kms_pb2_grpc.KeyManagementServiceStub(channel)

    def who(self) -> int:
        """The process id behind the public socket."""
        with self.kms() as stub:
            return int(stub.Status(kms_pb2.StatusRequest(), timeout=10).key_id)


@pytest.fixture
def start(short_tmp: Path) -> Iterator[Any]:
    """Starts processes on one root; all are killed at the end."""
    processes: list[Process] = []

    def run(*flags: str, **options: Any) -> Process:
        processes.append(Process(short_tmp, *flags, **options))
        return processes[-1]

    yield run
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


def code(error: grpc.RpcError) -> str:
    return client.reason(error).partition(":")[0]
