"""Changed blocks of real snapshots over the socket, against a comparison of every byte."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core import client
from tests.system.csi.kit import Driver, refused

MIB = 1 << 20
BLOCK = 4096
UNKNOWN = "snap-00000000000000000000.test-node"


def metadata(driver: Driver) -> rpc.SnapshotMetadataStub:
    return rpc.SnapshotMetadataStub(client.channel(driver.root / "csi.sock"))


def snapshot(driver: Driver, volume: str, name: str) -> str:
    request = pb.CreateSnapshotRequest(source_volume_id=volume, name=name)
    return driver.controller.CreateSnapshot(request, timeout=30).snapshot.snapshot_id


def drop(driver: Driver, *snapshots: str) -> None:
    for one in snapshots:
        driver.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=one), timeout=30)


def image(driver: Driver, snapshot_id: str) -> Path:
    return driver.pool / "snapshots" / f"{snapshot_id.partition('.')[0]}.img"


def collect(
    stream: Iterable[pb.GetMetadataAllocatedResponse] | Iterable[pb.GetMetadataDeltaResponse], size: int, most: int = 0
) -> list[tuple[int, int]]:
    """(offset, size) of all ranges; what a stream promises is checked on the way."""
    found: list[tuple[int, int]] = []
    for message in stream:
        assert message.block_metadata_type == pb.VARIABLE_LENGTH
        assert message.volume_capacity_bytes == size
        assert not most or len(message.block_metadata) <= most
        found += [(block.byte_offset, block.size_bytes) for block in message.block_metadata]
    ends = [offset + length for offset, length in found]
    assert all(end <= start for end, (start, _) in zip(ends, found[1:], strict=False))
    assert all(length > 0 for _, length in found) and max(ends, default=0) <= size
    return found


def delta(driver: Driver, base: str, target: str, size: int, start: int = 0, most: int = 0) -> list[tuple[int, int]]:
    request = pb.GetMetadataDeltaRequest(
        base_snapshot_id=base, target_snapshot_id=target, starting_offset=start, max_results=most
    )
    return collect(metadata(driver).GetMetadataDelta(request, timeout=60), size, most)


def allocated(driver: Driver, one: str, size: int, start: int = 0, most: int = 0) -> list[tuple[int, int]]:
    request = pb.GetMetadataAllocatedRequest(snapshot_id=one, starting_offset=start, max_results=most)
    return collect(metadata(driver).GetMetadataAllocated(request, timeout=60), size, most)


def restored(base: bytes, ranges: list[tuple[int, int]], target: bytes) -> bytes:
    """What a backup makes of an older copy and the changed ranges of a newer one."""
    result = bytearray(base.ljust(len(target), b"\0"))
    for offset, length in ranges:
        result[offset : offset + length] = target[offset : offset + length]
    return bytes(result)


@pytest.mark.parametrize("kind", ["block", "ext4", "xfs"])
def test_a_backup_by_changed_blocks_is_the_snapshot(driver: Driver, kind: str) -> None:
    size = 300 * MIB if kind == "xfs" else 64 * MIB
    volume = driver.create(kind, size=size)
    driver.stage(volume, kind)
    driver.publish(volume, kind)
    chance = random.Random(kind)
    snapshots = []
    for number in range(4):
        _scribble(driver, kind, chance)
        snapshots.append(snapshot(driver, volume, f"snapshot-{number}"))
    contents = [image(driver, one).read_bytes() for one in snapshots]
    assert restored(b"", allocated(driver, snapshots[0], size), contents[0]) == contents[0]
    for base, target in ((0, 1), (1, 2), (0, 3)):
        ranges = delta(driver, snapshots[base], snapshots[target], size)
        assert restored(contents[base], ranges, contents[target]) == contents[target]
        assert delta(driver, snapshots[base], snapshots[base], size) == []
    drop(driver, *snapshots)
    driver.remove(volume)


def _scribble(driver: Driver, kind: str, chance: random.Random) -> None:
    if kind == "block":
        with driver.target.open("r+b") as device:
            for _ in range(60):
                device.seek(chance.randrange(64 * MIB // BLOCK - 8) * BLOCK)
                device.write(chance.randbytes(chance.randrange(1, 8) * BLOCK))
            device.flush()
            os.fsync(device.fileno())
        return
    for number in range(20):
        file = driver.target / f"file-{chance.randrange(40)}"
        if number % 5 == 4:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(chance.randbytes(chance.randrange(200_000)))
    subprocess.run(["fstrim", driver.target], check=True, capture_output=True)
    os.sync()


def test_a_stream_goes_on_where_it_was_cut_off(driver: Driver) -> None:
    size = 16 * MIB
    volume = driver.ready("block")
    with driver.target.open("r+b") as device:
        for number in range(0, 4000, 4):
            os.pwrite(device.fileno(), b"x" * BLOCK, number * BLOCK)
        os.fsync(device.fileno())
    base = snapshot(driver, volume, "base")
    with driver.target.open("r+b") as device:
        for number in range(0, 4000, 8):
            os.pwrite(device.fileno(), b"y" * BLOCK, number * BLOCK)
        os.fsync(device.fileno())
    target = snapshot(driver, volume, "target")
    data, changes = allocated(driver, target, size), delta(driver, base, target, size)
    assert (len(data), len(changes)) == (1000, 500)
    for most in (1, 7, 5000):
        assert allocated(driver, target, size, most=most) == data
        assert delta(driver, base, target, size, most=most) == changes
    for index in (0, 1, 250, 499):
        start = sum(changes[index])
        assert delta(driver, base, target, size, start, most=3) == changes[index + 1 :]
    drop(driver, base, target)
    driver.remove(volume)


def test_a_volume_that_grew_between_two_snapshots(driver: Driver) -> None:
    volume = driver.ready("block")
    driver.write("block", b"x")
    base = snapshot(driver, volume, "base")
    request = pb.NodeExpandVolumeRequest(volume_id=volume, volume_path=str(driver.target))
    request.capacity_range.required_bytes = 32 * MIB
    driver.node.NodeExpandVolume(request, timeout=30)
    with driver.target.open("r+b") as device:
        os.pwrite(device.fileno(), b"z" * BLOCK, 30 * MIB)
        os.fsync(device.fileno())
    target = snapshot(driver, volume, "target")
    assert delta(driver, base, target, 32 * MIB) == [(30 * MIB, BLOCK)]
    drop(driver, base, target)
    driver.remove(volume)


def test_what_cannot_be_answered(driver: Driver) -> None:
    size = 16 * MIB
    one, other = driver.create("block", "one"), driver.create("block", "other")
    first, second = snapshot(driver, one, "first"), snapshot(driver, one, "second")
    foreign = snapshot(driver, other, "foreign")
    assert (allocated(driver, first, size), delta(driver, first, second, size)) == ([], [])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "different volumes"):
        delta(driver, foreign, first, size)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "newer"):
        delta(driver, second, first, size)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "other-node"):
        allocated(driver, "snap-00000000000000000000.other-node", size)
    with refused(grpc.StatusCode.NOT_FOUND):
        allocated(driver, UNKNOWN, size)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        allocated(driver, "", size)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        delta(driver, "", first, size)
    for start in (-1, size, 1 << 62):
        with refused(grpc.StatusCode.OUT_OF_RANGE):
            allocated(driver, first, size, start)
        with refused(grpc.StatusCode.OUT_OF_RANGE):
            delta(driver, first, second, size, start)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "max_results"):
        allocated(driver, first, size, most=-1)
    drop(driver, first)
    with refused(grpc.StatusCode.NOT_FOUND):
        delta(driver, first, second, size)
    drop(driver, second, foreign)
    for volume in (one, other):
        driver.delete(volume)


def test_a_snapshot_whose_image_is_gone(driver: Driver) -> None:
    volume = driver.create("block")
    one = snapshot(driver, volume, "one")
    image(driver, one).unlink()
    with refused(grpc.StatusCode.DATA_LOSS):
        allocated(driver, one, 16 * MIB)
    drop(driver, one)
    driver.delete(volume)
