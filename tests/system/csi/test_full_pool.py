"""A pool that is full to the last byte, at every step; and as many callers at once as the provisioner has."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.soak.disk import Disk
from tests.system.csi.kit import SIZES, Driver
from tests.system.csi.test_callers_at_once import at_once

CALLERS = 100  # worker threads of the external-provisioner
_PIECE = 4096
_STEPS = 1000


@pytest.fixture(params=["pool and state", "state"])
def full(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Driver, Filler]]:
    """A daemon whose pool and state lie on one small filesystem, or its state on one that sets nothing aside."""
    disk = Disk(short_tmp, 512 << 20)
    state = short_tmp / "state"
    alone = request.param == "state"
    pool = short_tmp / "outer" / "pool" if alone else state / "pool"
    driver = Driver(short_tmp, "overcommit=1000", "reserve=0", f"pool={pool}")
    driver.pool = pool
    if alone:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", state], check=True)
    try:
        yield driver.start(), Filler(state)
    finally:
        if driver.process:
            driver.process.kill()
        if alone:
            subprocess.run(["umount", state], check=True)
        disk.close()


class Filler:
    """Files that take what is free."""

    def __init__(self, folder: Path) -> None:
        self._big = folder / "filler"
        self._small = folder / "small"
        self._database = folder / "state.db"
        self._pieces = 0

    def fill(self) -> None:
        """Take all of it: the last pieces are files of their own, so that they can be given back one by one."""
        self._small.mkdir(exist_ok=True)
        status = os.statvfs(self._small)
        most = status.f_bavail * status.f_frsize - (2 << 20)
        if most > 0:
            with self._big.open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), most)
        while self._piece():
            self._pieces += 1
        os.sync()
        while self._piece():  # what was set aside for writes that have become smaller
            self._pieces += 1
        self._fill_database()

    def give_back(self) -> None:
        """One piece."""
        self._pieces -= 1
        (self._small / str(self._pieces)).unlink()

    def empty(self) -> None:
        """All of it."""
        while self._pieces:
            self.give_back()
        self._big.unlink(missing_ok=True)

    def _fill_database(self) -> None:
        """Take what the state file and its log have left inside."""
        full = contextlib.suppress(sqlite3.OperationalError)
        with contextlib.closing(sqlite3.connect(self._database, isolation_level=None)) as db, full:
            db.execute("CREATE TABLE IF NOT EXISTS junk (bytes BLOB)")
            for _ in range(_STEPS):
                db.execute("INSERT INTO junk VALUES (zeroblob(3000))")

    def _piece(self) -> bool:
        path = self._small / str(self._pieces)
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _PIECE)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            path.unlink(missing_ok=True)
            return False
        return True


def until_served(filler: Filler, call: Callable[[], object]) -> int:
    """Give space back bit by bit until the call succeeds; each refusal must say why. How often it was refused."""
    for refusals in range(_STEPS):
        try:
            call()
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, (error.code(), error.details())
            filler.give_back()
        else:
            return refusals
    raise AssertionError("space was given back, and the call is refused still")


@pytest.mark.parametrize("kind", ["block", "ext4"])
def test_each_step_on_a_full_pool(full: tuple[Driver, Filler], kind: str) -> None:
    driver, filler = full
    driver.delete(driver.create(kind, "before"))  # the template exists
    filler.fill()
    refused = until_served(filler, lambda: driver.create(kind))
    volume = driver.create(kind)
    assert len(driver.images()) == 1
    filler.fill()
    refused += until_served(filler, lambda: driver.stage(volume, kind))
    filler.fill()
    refused += until_served(filler, lambda: driver.publish(volume, kind))
    filler.fill()
    refused += until_served(filler, lambda: driver.unpublish(volume))
    refused += until_served(filler, lambda: driver.unstage(volume))
    refused += until_served(filler, lambda: driver.delete(volume))
    assert refused, "the pool was never full"
    filler.empty()
    driver.restart()
    driver.assert_nothing_left()
    driver.remove(driver.ready(kind))
    driver.assert_nothing_left()
    assert driver.process
    assert "Traceback" not in driver.process.text()


def test_a_refused_write_of_the_state_is_never_acknowledged(full: tuple[Driver, Filler]) -> None:
    """What was answered with OK is there after a crash; what was refused left nothing."""
    driver, filler = full
    driver.create("block", "first")
    filler.fill()
    made = {"first"}
    for number in range(60):
        try:
            driver.create("block", f"volume-{number}")
            made.add(f"volume-{number}")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, (error.code(), error.details())
        if number % 3 == 0:
            filler.give_back()
    filler.empty()
    driver.restart()
    listed = driver.controller.ListVolumes(pb.ListVolumesRequest()).entries
    assert len(listed) == len(made)
    assert len(driver.images()) == len(made)
    for entry in listed:
        driver.delete(entry.volume.volume_id)
    driver.assert_nothing_left()


def test_as_many_callers_as_the_provisioner_has(make_driver: Callable[..., Driver]) -> None:
    driver = make_driver("overcommit=10").start()
    ok = grpc.StatusCode.OK
    volumes = [""] * CALLERS

    def make(number: int) -> None:
        volumes[number] = driver.create("ext4", f"pvc-{number}", SIZES["ext4"] + (number % 3 << 20))

    assert at_once(CALLERS, make) == {ok: CALLERS}
    assert len(set(volumes)) == len(driver.images()) == CALLERS
    again = list(volumes)
    assert at_once(CALLERS, make) == {ok: CALLERS}  # as after a time-out
    assert volumes == again
    codes = at_once(CALLERS, lambda _: driver.create("ext4", "the same"))
    assert set(codes) <= {ok, grpc.StatusCode.ABORTED}
    assert codes[ok] >= 1
    assert len(driver.images()) == CALLERS + 1
    driver.delete(driver.create("ext4", "the same"))
    assert at_once(CALLERS, lambda number: driver.delete(volumes[number])) == {ok: CALLERS}
    driver.assert_nothing_left()
