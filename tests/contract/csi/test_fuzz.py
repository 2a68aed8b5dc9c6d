"""A few thousand random requests of every kind: no INTERNAL, no UNKNOWN, no traceback, and nothing left behind.

NODEPLUG_FUZZ_REQUESTS=200000 makes it long, NODEPLUG_FUZZ_SEED=N makes it the same again.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf.message import Message

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.soak.fuzz import fuzzed
from tests.soak.messages import METHODS, Generator
from tests.soak.world import World

REQUESTS = int(os.environ.get("NODEPLUG_FUZZ_REQUESTS", "3000"))
SEED = int(os.environ.get("NODEPLUG_FUZZ_SEED", str(random.SystemRandom().getrandbits(32))))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (mounts, loop devices)")
@pytest.mark.skipif(not os.access("/dev/loop-control", os.W_OK), reason="needs /dev/loop-control")
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="mkfs.ext4 is not installed")
@pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="mkfs.xfs is not installed")
@pytest.mark.timeout(120 + REQUESTS // 50)
def test_whatever_is_asked_there_is_an_answer(short_tmp: Path) -> None:
    with fuzzed(short_tmp, SEED) as fuzzer:
        figures = fuzzer.run(REQUESTS, callers=4)
    assert figures.good, "\n".join([*figures.bad[:10], *figures.left[:10], str(figures)])
    wanted = {"CreateVolume", "NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "DeleteVolume"}
    assert wanted <= set(figures.reached), figures  # it is no test if nothing is ever served


def test_a_seed_gives_the_same_requests_again(tmp_path: Path) -> None:
    def some(seed: int) -> list[bytes]:
        generator = Generator(World(tmp_path, "node"), random.Random(seed))
        return [generator.request(generator.method()).SerializeToString(deterministic=True) for _ in range(300)]

    assert some(1) == some(1)
    assert some(1) != some(2)


def test_every_field_of_every_request_is_sent(tmp_path: Path) -> None:
    world = World(tmp_path, "node", volumes=["vol-1"], tokens=["v1-1"])
    generator = Generator(world, random.Random(1))
    found = fields_of([generator.request(method) for method in METHODS for _ in range(400)])
    wanted = {
        one.full_name
        for method in METHODS
        for one in (*method.input_type.fields, *pb.VolumeCapability.DESCRIPTOR.fields)
    }
    assert wanted - found == set()


def fields_of(messages: Sequence[Message]) -> set[str]:
    """The full names of the fields that are set anywhere in messages: what a fuzzer has reached."""
    found: set[str] = set()
    for message in messages:
        for one, value in message.ListFields():
            found.add(one.full_name)
            if one.message_type is None or one.message_type.GetOptions().map_entry:
                continue
            found |= fields_of(value if one.is_repeated else [value])
    return found
