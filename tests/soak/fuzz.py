"""Random requests of every kind to the real daemon: whatever comes, it answers with a code that its caller can act on.

Volumes, stagings and publications come and go by it; from time to time all of them are taken away, and then nothing
may be left: no device, mount, image or descriptor, and no traceback in the log.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core import client
from tests.soak.ledger import patiently
from tests.soak.messages import METHODS, Generator
from tests.soak.world import STAGINGS, World
from tests.system.csi.kit import NODE, Driver

_C = grpc.StatusCode
ALLOWED = frozenset(
    {
        *(_C.OK, _C.INVALID_ARGUMENT, _C.NOT_FOUND, _C.ALREADY_EXISTS, _C.FAILED_PRECONDITION, _C.ABORTED),
        *(_C.OUT_OF_RANGE, _C.RESOURCE_EXHAUSTED, _C.UNIMPLEMENTED),
    }
)
SETTINGS = ("embedded_size=8GiB", "expansion=controller", "overcommit=2")
_TIDY_EVERY = 4000  # requests between two times that everything is taken away
_WARM = 400  # requests until every lazily made thing of the daemon exists
_MOST = 60  # volumes, or snapshots, at which all are taken away
_SPARE_FDS = 12  # connections and threads come and go; a leak of one per operation is hundreds


@dataclass
class Figures:
    """What a run came to. bad: answers that no request may get, each with all that is needed to ask again."""

    seed: int
    requests: int = 0
    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    reached: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    tracebacks: int = 0

    def __str__(self) -> str:
        codes = ", ".join(f"{name} {count}" for name, count in self.codes.most_common())
        served = sum(1 for method in METHODS if self.reached[method.name])
        return (
            f"fuzz: {self.requests} requests, {len(self.bad)} bad answers, {self.tracebacks} tracebacks, "
            f"{len(self.left)} leaks; {served} of {len(METHODS)} methods answered OK; {codes} (seed {self.seed})"
        )

    @property
    def good(self) -> bool:
        return not (self.bad or self.left or self.tracebacks)


class Fuzzer:
    """One daemon under random requests."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self._driver = driver
        self._seed = seed
        self._guard = threading.Lock()
        self.world = World(driver.root, NODE)
        self.figures = Figures(seed)
        self._prepare()

    def run(self, requests: int, callers: int = 1, progress: Callable[[str], None] = lambda _: None) -> Figures:
        """Send that many requests, a part from each of so many callers at once; what they left is looked for after."""
        assert self._driver.process
        self._batch(min(_WARM, requests), 1, "warm")
        self.tidy()
        before = self._descriptors()
        while self.figures.requests < requests and not self._dead():
            self._batch(min(_TIDY_EVERY, requests - self.figures.requests), callers, str(self.figures.requests))
            self.tidy()
            progress(str(self.figures))
        self._account(before)
        return self.figures

    def tidy(self) -> None:
        """Take away everything that requests have made, as its users would."""
        if self._dead():
            return
        state = self._driver.root / "state" / "state.db"
        with contextlib.closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as db:
            published = db.execute("SELECT volume_id, target FROM publications").fetchall()
            staged = db.execute("SELECT volume_id, path FROM stagings").fetchall()
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
            snapshots = db.execute("SELECT id, group_id FROM snapshots").fetchall() if "snapshots" in tables else []
            volumes = db.execute("SELECT id FROM volumes").fetchall()
        for volume, target in published:
            self._driver.unpublish(volume, target)
        for volume, path in staged:
            patiently(functools.partial(self._driver.unstage, volume, path))
        for group in sorted({group for _, group in snapshots if group}):
            members = [snapshot for snapshot, of in snapshots if of == group]
            request = pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group, snapshot_ids=members)
            rpc.GroupControllerStub(self._channel).DeleteVolumeGroupSnapshot(request, timeout=30)
        for snapshot in (snapshot for snapshot, group in snapshots if not group):
            self._driver.controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=snapshot), timeout=30)
        for (volume,) in volumes:
            self._driver.delete(volume)
        self.world.volumes.clear()
        self.world.snapshots.clear()
        self.world.groups.clear()
        self.figures.left += self._left()

    def _prepare(self) -> None:
        root = self.world.root
        self.world.outside.mkdir()
        (self.world.outside / "file").write_text("somebody's")
        (self._driver.pods / "link").symlink_to(self.world.outside)
        (self._driver.pods / "file").write_text("somebody's")
        for number in range(STAGINGS):
            self.world.staging(number).mkdir()
        self._channel = client.channel(root / "csi.sock")
        self._calls = {method.name: _callable(self._channel, method) for method in METHODS}

    def _batch(self, requests: int, callers: int, name: str) -> None:
        shares = [requests // callers + (number < requests % callers) for number in range(callers)]
        threads = [
            threading.Thread(target=self._caller, args=(share, f"{self._seed}/{name}/{number}"))
            for number, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _caller(self, requests: int, seed: str) -> None:
        rng = random.Random(seed)
        generator = Generator(self.world, rng)
        for _ in range(requests):
            if self._dead():
                return
            method = generator.method()
            with self._guard:  # lists of the world do not change while a request is made of them
                request = generator.request(method)
            self._send(method, request, seed)
            if max(len(self.world.volumes), len(self.world.snapshots)) > _MOST:
                self._drop_one(rng)

    def _send(self, method: MethodDescriptor, request: Message, seed: str) -> None:
        try:
            answer, code, said = self._calls[method.name](request), _C.OK, ""
        except grpc.RpcError as error:
            answer, code, said = None, error.code(), error.details() or ""
        with self._guard:
            self.figures.requests += 1
            self.figures.codes[code.name] += 1
            if code not in ALLOWED:
                text = text_format.MessageToString(request, as_one_line=True)
                self.figures.bad.append(f"{method.name} {code.name}: {said} [seed {seed}] {text[:2000]}")
            elif answer is not None:
                self.figures.reached[method.name] += 1
                self._learn(request, answer)

    def _learn(self, request: Message, answer: Any) -> None:
        """What later requests may speak of."""
        world = self.world
        match answer:
            case pb.CreateVolumeResponse():
                if answer.volume.volume_id not in world.volumes:
                    world.volumes.append(answer.volume.volume_id)
                    if request.volume_capabilities[0].HasField("block"):  # type: ignore[attr-defined]
                        world.raw.add(answer.volume.volume_id)
                    self._driver.tokens.add(answer.volume.volume_id.partition(".")[0])
            case pb.CreateSnapshotResponse():
                if answer.snapshot.snapshot_id not in world.snapshots:
                    world.snapshots.append(answer.snapshot.snapshot_id)
            case pb.CreateVolumeGroupSnapshotResponse():
                world.groups.append(answer.group_snapshot.group_snapshot_id)
                world.snapshots += [snapshot.snapshot_id for snapshot in answer.group_snapshot.snapshots]
            case pb.ListVolumesResponse() | pb.ListSnapshotsResponse():
                world.tokens.append(answer.next_token)
            case pb.DeleteVolumeResponse():
                _forget(world.volumes, request.volume_id)  # type: ignore[attr-defined]
            case pb.DeleteSnapshotResponse():
                _forget(world.snapshots, request.snapshot_id)  # type: ignore[attr-defined]

    def _drop_one(self, rng: random.Random) -> None:
        """Keep the world small. A volume that is in use says so and stays."""
        with self._guard:
            volume = rng.choice(self.world.volumes) if self.world.volumes else ""
            snapshot = rng.choice(self.world.snapshots) if self.world.snapshots else ""
        by_name = {method.name: method for method in METHODS}
        if volume:
            self._send(by_name["DeleteVolume"], pb.DeleteVolumeRequest(volume_id=volume), "drop")
        if snapshot:
            self._send(by_name["DeleteSnapshot"], pb.DeleteSnapshotRequest(snapshot_id=snapshot), "drop")

    def _dead(self) -> bool:
        return self._driver.process is None or self._driver.process.popen.poll() is not None

    def _descriptors(self) -> int:
        assert self._driver.process
        return len(os.listdir(f"/proc/{self._driver.process.pid}/fd"))

    def _account(self, descriptors: int) -> None:
        assert self._driver.process
        if self._dead():
            self.figures.left.append(f"the daemon ended: {self._driver.process.text()[-3000:]}")
            return
        now = self._descriptors()
        if now > descriptors + _SPARE_FDS:
            self.figures.left.append(f"descriptors of the daemon: {descriptors} before, {now} after")
        text = self._driver.process.text()
        self.figures.tracebacks = text.count("Traceback (most recent call last)")
        listed = sorted(path.name for path in self.world.outside.iterdir())
        if listed != ["file"] or (self.world.outside / "file").read_text() != "somebody's":
            self.figures.left.append(f"outside of the allowed roots: {listed}")

    def _left(self) -> list[str]:
        driver = self._driver
        listed = driver.controller.ListVolumes(pb.ListVolumesRequest(), timeout=30).entries
        found = [f"volume {entry.volume.volume_id}" for entry in listed]
        found += [f"image {name}" for name in driver.images()]
        found += [f"snapshot image {name}" for name in os.listdir(driver.pool / "snapshots")]
        found += [f"device of {name}" for name in driver.loops()]
        return found + [f"mount {path}" for path in driver.mounts()]


def _callable(channel: grpc.Channel, method: MethodDescriptor) -> Callable[[Message], object]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = GetMessageClass(method.output_type).FromString
    encode: Callable[[Message], bytes] = lambda message: message.SerializeToString()  # noqa: E731 - a short encoder
    if method.server_streaming:
        stream = channel.unary_stream(path, request_serializer=encode, response_deserializer=answer)
        return lambda request: list(stream(request, timeout=60))
    unary = channel.unary_unary(path, request_serializer=encode, response_deserializer=answer)
    return lambda request: unary(request, timeout=60)


def _forget(names: list[str], name: str) -> None:
    if name in names:
        names.remove(name)


@contextlib.contextmanager
def fuzzed(root: Path, seed: int) -> Iterator[Fuzzer]:
    """A fuzzer with a daemon of its own below a folder."""
    driver = Driver(root, *SETTINGS)
    try:
        yield Fuzzer(driver.start(), seed)
        driver.stop()
    finally:
        driver.clean()
