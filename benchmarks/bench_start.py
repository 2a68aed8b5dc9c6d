"""From the start of a process to the moment at which its caller could use it.

csi, device (watcher style): the registration socket answers GetInfo. device (Register style): the kubelet's side has
accepted Register, for which a small kubelet.sock stands here. kms: the first Status. The kubelet looks for new
registration sockets once a second; that tick is its own and comes on top.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from benchmarks import daemons, places, processes
from benchmarks.harness import Figure, Options, Sample, singles
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as device_pb
from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as device_rpc
from plugins.api.kms.v2 import kms_pb2, kms_pb2_grpc
from plugins.api.pluginregistration.v1 import pluginregistration_pb2 as registration_pb
from plugins.api.pluginregistration.v1 import pluginregistration_pb2_grpc as registration_rpc

BOUND = 500.0  # ms
_TICK = "the kubelet's watcher adds up to 1000 ms of its own"

Q = TypeVar("Q", bound=Message)


class Kubelet(device_rpc.RegistrationServicer):
    """A kubelet.sock that accepts every device plugin and notes when."""

    def __init__(self, socket: Path) -> None:
        self.registered = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(2))
        device_rpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    def Register(self, request: device_pb.RegisterRequest, context: grpc.ServicerContext) -> device_pb.Empty:
        """Accepted."""
        self.registered.set()
        return device_pb.Empty()

    def stop(self) -> None:
        """No more."""
        self._server.stop(None).wait()


def run(options: Options) -> list[Figure]:
    """One figure for each daemon and style of registration; csi where the volume part can run."""
    figures = []
    for name, measure, note in (
        ("csi", _csi, _TICK),
        ("device, watcher style", _device_watcher, _TICK),
        ("device, Register style", _device_register, ""),
        ("kms", _kms, ""),
    ):
        if measure is _csi and os.geteuid() != 0:
            continue
        with places.root() as root:
            values = singles(f"start {name}", options.pairs, measure(root))
        figures.append(Figure(f"start: {name}", "ms", values, bound=BOUND, note=note))
    return figures


def _csi(root: Path) -> Sample:
    argv = daemons.csi_command(root, places.pool(root))
    return _until(argv, root, lambda: _answers(_registration_socket(root), _get_info))


def _device_watcher(root: Path) -> Sample:
    argv = daemons.device_command(root, "watcher")
    return _until(argv, root, lambda: _answers(_registration_socket(root), _get_info))


def _kms(root: Path) -> Sample:
    return _until(daemons.kms_command(root), root, lambda: _answers(_present(root / "kms.sock"), _status))


def _device_register(root: Path) -> Sample:
    argv = daemons.device_command(root, "kubelet")

    def sample() -> float:
        kubelet = Kubelet(root / "kubelet" / "device-plugins" / "kubelet.sock")
        try:
            return _until(argv, root, lambda: kubelet.registered.is_set() or None)()
        finally:
            kubelet.stop()

    return sample


def _until(argv: Sequence[str], root: Path, ready: Callable[[], object | None]) -> Sample:
    def sample() -> float:
        log = root / "log"
        began = time.perf_counter()
        with processes.running(argv, log) as process:
            processes.wait_for(ready, argv[3], log, process)
            spent = time.perf_counter() - began
        for left in (root / "kubelet" / "plugins_registry").glob("*-reg.sock"):
            left.unlink()  # the CSI one stays at a stop: it must not answer for the next start
        return spent * 1000

    return sample


def _registration_socket(root: Path) -> Path | None:
    return next((root / "kubelet" / "plugins_registry").glob("[!.]*-reg.sock"), None)


def _present(socket: Path) -> Path | None:
    return socket if socket.exists() else None


def _answers(socket: Path | None, call: Callable[[grpc.Channel], object]) -> object | None:
    if socket is None:
        return None
    with processes.open_channel(socket) as channel:
        try:
            return call(channel)
        except grpc.RpcError:  # bound, and not serving yet
            return None


def _get_info(channel: grpc.Channel) -> object:
    return registration_rpc.RegistrationStub(channel).GetInfo(registration_pb.InfoRequest(), timeout=1)


def _status(channel: grpc.Channel) -> object:
    return kms_pb2_grpc.KeyManagementServiceStub(channel).Status(kms_pb2.StatusRequest(), timeout=1)
