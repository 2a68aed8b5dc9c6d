"""A CSI daemon on folders of its own, and a caller that does what the sidecars and the kubelet do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core import client
from tests.processes import Process
from tools import leaks

NODE = "test-node"
SIZES = {"block": 16 << 20, "ext4": 16 << 20, "xfs": 300 << 20}
KINDS = tuple(SIZES)
_PROGRAMS = ("mkfs.ext4", "mkfs.xfs")
MULTI_WRITER = pb.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER


def need_root(items: Iterable[pytest.Item]) -> None:
    """Mark tests that mount and attach; where that is not possible they are skipped, with the reason."""
    reasons = []
    if os.geteuid() != 0:
        reasons.append("needs root (mounts, loop devices)")
    elif not os.access("/dev/loop-control", os.W_OK):
        reasons.append("needs /dev/loop-control")
    reasons += [f"{name} is not installed" for name in _PROGRAMS if not shutil.which(name)]
    for item in items:
        item.add_marker(pytest.mark.root)
        if reasons:
            item.add_marker(pytest.mark.skip(reason=reasons[0]))


def capability(
    kind: str, mode: pb.VolumeCapability.AccessMode.Mode.ValueType = MULTI_WRITER, flags: Sequence[str] = ()
) -> pb.VolumeCapability:
    """A capability; kind: "block", a filesystem, or "" for the driver's choice of one."""
    made = pb.VolumeCapability()
    made.access_mode.mode = mode
    if kind == "block":
        made.block.SetInParent()
    else:
        made.mount.fs_type = kind
        made.mount.mount_flags.extend(flags)
    return made


class Driver:
    """A daemon that may be started, killed and started again on the same folders."""

    def __init__(self, root: Path, *settings: str) -> None:
        self.root = root
        self.settings = ("embedded_size=2GiB", "reserve=16MiB", f"node_id={NODE}", *settings)
        self.pods = root / "kubelet" / "pods"
        self.pods.mkdir(parents=True)
        self.staging = root / "kubelet" / "plugins" / "staging"
        self.staging.mkdir(parents=True)
        self.target = self.pods / "target"
        self.pool = root / "state" / "pool"
        self.process: Process | None = None
        self.tokens: set[str] = set()
        self._starts = 0

    def command(self) -> list[str]:
        """The command line of the daemon."""
        argv = [sys.executable, "-m", "plugins", "csi", "serve", "--kubelet-dir", str(self.root / "kubelet")]
        argv += ["--state-dir", str(self.root / "state"), "--socket", str(self.root / "csi.sock")]
        return argv + [part for setting in self.settings for part in ("--set", setting)]

    def launch(self, fault: str = "", prefix: Sequence[str] = ()) -> Process:
        """A new process, not waited for."""
        self._starts += 1
        log = self.root / f"log.{self._starts}"
        self.process = Process([*prefix, *self.command()], log, env={"NODEPLUG_FAULT": fault})
        return self.process

    def start(self, fault: str = "", prefix: Sequence[str] = ()) -> Driver:
        """A new process that serves; fault: the point at which it ends itself by SIGKILL."""
        assert self.process is None or self.process.popen.poll() is not None
        self.launch(fault, prefix).serving()
        channel = client.channel(self.root / "csi.sock")
        self.identity = rpc.IdentityStub(channel)
        self.controller = rpc.ControllerStub(channel)
        self.node = rpc.NodeStub(channel)
        return self

    def restart(self, fault: str = "") -> Driver:
        """As after a crash."""
        assert self.process
        self.process.kill()
        return self.start(fault)

    def stop(self) -> None:
        """A plain stop; it must end well."""
        if self.process and self.process.popen.poll() is None:
            assert self.process.stop() == 0, self.process.text()

    def create(self, kind: str, name: str = "volume", size: int = 0) -> str:
        """A volume of that kind; returns its id."""
        request = pb.CreateVolumeRequest(name=name, volume_capabilities=[capability(kind)])
        request.capacity_range.required_bytes = size or SIZES[kind or "ext4"]
        volume = self.controller.CreateVolume(request, timeout=30).volume.volume_id
        self.tokens.add(volume.partition(".")[0])
        return volume

    def delete(self, volume: str) -> None:
        """DeleteVolume."""
        self.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume), timeout=30)

    def stage(self, volume: str, kind: str, path: Path | str | None = None, flags: Sequence[str] = ()) -> None:
        """NodeStageVolume."""
        request = pb.NodeStageVolumeRequest(volume_id=volume, staging_target_path=str(path or self.staging))
        request.volume_capability.CopyFrom(capability(kind, flags=flags))
        self.node.NodeStageVolume(request, timeout=30)

    def unstage(self, volume: str, path: Path | str | None = None) -> None:
        """NodeUnstageVolume."""
        request = pb.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=str(path or self.staging))
        self.node.NodeUnstageVolume(request, timeout=30)

    def publish(
        self,
        volume: str,
        kind: str,
        target: Path | str | None = None,
        *,
        read_only: bool = False,
        mode: pb.VolumeCapability.AccessMode.Mode.ValueType = MULTI_WRITER,
        flags: Sequence[str] = (),
        staging: Path | None = None,
    ) -> None:
        """NodePublishVolume."""
        request = pb.NodePublishVolumeRequest(
            volume_id=volume,
            staging_target_path=str(staging or self.staging),
            target_path=str(target or self.target),
            readonly=read_only,
        )
        request.volume_capability.CopyFrom(capability(kind, mode, flags))
        self.node.NodePublishVolume(request, timeout=30)

    def unpublish(self, volume: str, target: Path | str | None = None) -> None:
        """NodeUnpublishVolume."""
        request = pb.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(target or self.target))
        self.node.NodeUnpublishVolume(request, timeout=30)

    def ready(self, kind: str, name: str = "volume") -> str:
        """A volume made, staged and published; returns its id."""
        volume = self.create(kind, name)
        self.stage(volume, kind)
        self.publish(volume, kind)
        return volume

    def remove(self, volume: str) -> None:
        """All of that undone."""
        self.unpublish(volume)
        self.unstage(volume)
        self.delete(volume)

    def write(self, kind: str, data: bytes) -> None:
        """Data into the published volume, durably."""
        path = self.target if kind == "block" else self.target / "data"
        with path.open("r+b" if kind == "block" else "wb") as file:
            file.write(data.ljust(4096, b"\0"))
            file.flush()
            os.fsync(file.fileno())

    def read(self, kind: str) -> bytes:
        """What `write` wrote."""
        path = self.target if kind == "block" else self.target / "data"
        with path.open("rb") as file:
            return file.read(4096).rstrip(b"\0")

    def loops(self) -> list[str]:
        """What is attached of this daemon's volumes: names of images, and devices that views show."""
        found = leaks.loops()
        images = {name: file for name, file in found.items() if self._is_image(file)}
        views = [file for file in found.values() if file.removeprefix("/dev/") in images]
        return sorted([*(os.path.basename(file) for file in images.values()), *views])

    def mounts(self) -> list[str]:
        """Mount points below the kubelet's directory."""
        return sorted(path for path in leaks.mounts() if path.startswith(str(self.root / "kubelet")))

    def images(self) -> list[str]:
        """Files of volumes, finished or not."""
        return sorted(os.listdir(self.pool / "volumes"))

    def assert_nothing_left(self) -> None:
        """No volume, and nothing that once belonged to one."""
        assert list(self.controller.ListVolumes(pb.ListVolumesRequest()).entries) == []
        assert (self.images(), self.loops(), self.mounts()) == ([], [], [])
        assert not self.target.exists()

    def clean(self) -> None:
        """Whatever a test left: gone, so that the next one is not disturbed."""
        if self.process:
            self.process.kill()
        found = leaks.loops()
        volumes = {name for name, file in found.items() if self._is_image(file)}
        views = {name for name, file in found.items() if file.removeprefix("/dev/") in volumes}
        below = sorted((p for p in leaks.mounts() if p.startswith(f"{self.root}/")), reverse=True)
        for path in (p for p in below if p != str(self.pool)):
            subprocess.run(["umount", path], check=True)
        for name in [*sorted(views), *sorted(volumes)]:
            subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)
        if str(self.pool) in below:
            # A detached device lets go of its image a moment after it is gone from sysfs.
            assert leaks.settle(lambda: subprocess.run(["umount", self.pool], check=False).returncode * ["busy"]) == []
        for name in [name for name, file in leaks.loops().items() if file == f"{self.pool}.img"]:
            subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)

    def _is_image(self, file: str) -> bool:
        """Whether a backing file is a volume of this daemon; in a dead namespace its path has no beginning."""
        return any(f"/volumes/{token}.img" in file for token in self.tokens)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, text: str = "") -> Iterator[None]:
    """The calls inside must be answered with this code; text: a part of the message."""
    try:
        yield
    except grpc.RpcError as error:
        assert (error.code(), text in (error.details() or "")) == (code, True), (error.code(), error.details())
    else:
        raise AssertionError(f"not refused with {code}")


@contextlib.contextmanager
def dies(driver: Driver) -> Iterator[None]:
    """The call inside must find the daemon's end by its own fault point."""
    assert driver.process
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    assert driver.process.popen.wait(10) == -signal.SIGKILL
