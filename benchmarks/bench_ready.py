"""Volume ready: Create + Stage + Publish through the CSI daemon beside the system calls that it cannot do without.

The floor makes its system calls on the same pool and one bare RPC for each of the three, with the same messages.
Undoing a volume is not measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from benchmarks import daemons, places, processes
from benchmarks.floor import KINDS, SIZE, Floor
from benchmarks.harness import Figure, Options, pairs
from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc

BOUND = 1.5
_CYCLES = 3  # in one value: their mean


class Caller:
    """Makes volumes over a channel, as the provisioner and the kubelet would."""

    def __init__(self, channel: grpc.Channel, folder: Path) -> None:
        self._controller, self._node = rpc.ControllerStub(channel), rpc.NodeStub(channel)
        self._names = (f"bench-{number}" for number in itertools.count())
        self._folder = folder
        self._staging = folder / "staging"
        self._staging.mkdir(parents=True)

    def create(self, kind: str) -> str:
        """A volume of that kind; returns its id."""
        request = pb.CreateVolumeRequest(name=next(self._names), volume_capabilities=[_capability(kind)])
        request.capacity_range.required_bytes = SIZE
        return self._controller.CreateVolume(request).volume.volume_id

    def stage(self, volume: str, kind: str) -> None:
        """The volume on this node."""
        self._node.NodeStageVolume(
            pb.NodeStageVolumeRequest(
                volume_id=volume, staging_target_path=str(self._staging), volume_capability=_capability(kind)
            )
        )

    def publish(self, volume: str, kind: str) -> None:
        """The volume in a pod's folder."""
        self._node.NodePublishVolume(
            pb.NodePublishVolumeRequest(
                volume_id=volume,
                staging_target_path=str(self._staging),
                target_path=str(self._folder / "target"),
                volume_capability=_capability(kind),
            )
        )

    def undo(self, volume: str) -> None:
        """Everything back."""
        self._node.NodeUnpublishVolume(
            pb.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(self._folder / "target"))
        )
        self._node.NodeUnstageVolume(
            pb.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=str(self._staging))
        )
        self._controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume))


def run(options: Options) -> list[Figure]:
    """One figure for each kind of volume."""
    figures = []
    with places.root() as root:
        pool = places.pool(root)
        by_hand = _floor(root, pool)
        with (
            daemons.csi(root, pool) as ours,
            processes.serving(processes.bare(root / "bare.sock", "csi"), root / "bare.sock") as bare,
            processes.open_channel(ours) as our_channel,
            processes.open_channel(bare) as bare_channel,
        ):
            mine = Caller(our_channel, root / "kubelet" / "pods" / "ours")
            calls = Caller(bare_channel, root / "kubelet" / "pods" / "bare")
            for kind in KINDS:
                ours_sample = _sample(_ours(mine, kind))
                floor_sample = _sample(_by_hand(calls, by_hand, kind))
                values = pairs(f"ready {kind}", options.pairs, ours_sample, floor_sample)
                note = f"each value is the mean of {_CYCLES} volumes of {SIZE >> 30} GiB"
                figures.append(Figure(f"ready: {kind} volume", "ms", *values, bound=BOUND, note=note))
    return figures


Cycle = Iterator[None]
"""Up to its first stop a volume becomes ready, after that it goes."""


def _ours(caller: Caller, kind: str) -> Callable[[], Cycle]:
    def cycle() -> Cycle:
        volume = caller.create(kind)
        caller.stage(volume, kind)
        caller.publish(volume, kind)
        yield
        caller.undo(volume)

    return cycle


def _by_hand(caller: Caller, floor: Floor, kind: str) -> Callable[[], Cycle]:
    def cycle() -> Cycle:
        volume = caller.create(kind)
        floor.create(kind)
        caller.stage(volume, kind)
        floor.stage(kind)
        caller.publish(volume, kind)
        floor.publish(kind)
        yield
        floor.undo(kind)

    return cycle


def _sample(cycle: Callable[[], Cycle]) -> Callable[[], float]:
    def sample() -> float:
        spent = 0.0
        for _ in range(_CYCLES):
            volume = cycle()
            began = time.perf_counter()
            next(volume)
            spent += time.perf_counter() - began
            next(volume, None)
        return spent / _CYCLES * 1000

    return sample


def _floor(root: Path, pool: Path) -> Floor:
    folder, outside = pool / "by-hand", root / "by-hand"
    folder.mkdir()
    outside.mkdir()
    return Floor(folder, outside, places.templates(pool))


def _capability(kind: str) -> pb.VolumeCapability:
    capability = pb.VolumeCapability()
    capability.access_mode.mode = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    if kind == "block":
        capability.block.SetInParent()
    else:
        capability.mount.fs_type = kind
    return capability
