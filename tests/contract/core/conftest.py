"""Processes of the test plugin, on a folder of their own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugins.api.kms.v2 import kms_pb2, kms_pb2_grpc
from plugins.core import client
from tests import processes

PLUGIN = Path(__file__).with_name("echo_plugin.py")
ROOT = processes.ROOT


class Process(processes.Process):
    """One process of the test plugin on a root of its own."""

    def __init__(self, root: Path, *flags: str, faults: str = "") -> None:
        self.root = root
        command = [sys.executable, str(PLUGIN), "serve", "--kubelet-dir", f"{root}/k", "--state-dir", f"{root}/s"]
        for flag in flags:
            command += ["--set", flag]
        super().__init__(command, root / f"log.{len(list(root.glob('log.*')))}", env={"NODEPLUG_FAULT": faults})

    @property
    def socket(self) -> Path:
        return self.root / "k/plugins/echo.test.internal/echo.sock"

    @property
    def registration_socket(self) -> Path:
        return self.root / "k/plugins_registry/echo.test.internal-reg.sock"

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
    started: list[Process] = []

    def run(*flags: str, **options: Any) -> Process:
        started.append(Process(short_tmp, *flags, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def code(error: grpc.RpcError) -> str:
    return client.reason(error).partition(":")[0]
