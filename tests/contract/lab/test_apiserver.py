"""The lab's API server does to a KMS plugin what kube-apiserver does. The clock is the test's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.lab import envelope
from plugins.lab.apiserver import ApiServer
from plugins.lab.encryption import IdentityProvider, KmsProvider, Provider
from plugins.lab.errors import LabError
from plugins.lab.etcd import Conflict
from plugins.lab.timings import ApiServerTimings
from tests.contract.lab.fake_kms import FakeKms
from tests.contract.lab.fakes import Servers

PATH = "/registry/secrets/default/password"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class World:
    """A fake plugin, a clock and an API server between them."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.folder = folder
        self.kms = FakeKms()
        self.clock = Clock()
        servers.serve(folder / "kms.sock", self.kms.add)

    def provider(self, name: str = "p", timeout: float = 5.0, socket: str = "kms.sock") -> KmsProvider:
        return KmsProvider(name, f"unix://{self.folder / socket}", timeout)

    def server(self, *providers: Provider) -> ApiServer:
        return ApiServer(self.folder / "etcd.sqlite", providers or [self.provider()], now=self.clock, background=False)


@pytest.fixture
def world(folder: Path, servers: Servers) -> World:
    return World(folder, servers)


@pytest.fixture
def api(world: World) -> Iterator[ApiServer]:
    with world.server() as made:
        yield made


def secret(name: str = "password", value: str = "aHVudGVyMg==") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"password": value},
    }


def next_probe(world: World, api: ApiServer) -> dict[str, str]:
    """The time of the last result is over; /readyz asks again."""
    world.clock.pass_(21)
    return api.readyz()


def test_a_secret_is_stored_encrypted_and_read_back(world: World, api: ApiServer) -> None:
    made = api.create(secret())
    raw = api.raw(PATH)
    assert raw.startswith(b"k8s:enc:kms:v2:p:")
    assert b"hunter2" not in raw
    assert envelope.decode("p", raw)[0].key_id == "key-1"
    assert api.get("Secret", "default", "password") == made
    assert world.kms.calls == ["Status", "Encrypt"]  # one seed for all writes, and reads find it in the cache


def test_a_resource_that_is_not_configured_is_stored_as_it_is(api: ApiServer) -> None:
    api.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}, "data": {"x": "y"}}
    )
    assert api.raw("/registry/configmaps/b/a").startswith(b"{")


def test_a_new_process_decrypts_each_seed_once_and_makes_a_new_one(world: World, api: ApiServer) -> None:
    for name in ("a", "b", "c"):
        api.create(secret(name))
    api.restart()
    world.kms.calls.clear()
    assert len(api.list("Secret")) == 3
    assert world.kms.calls == ["Decrypt"]
    api.create(secret("d"))
    seeds = {envelope.decode("p", api.raw(f"/registry/secrets/default/{n}"))[0].source for n in "ad"}
    assert len(seeds) == 2


def test_a_new_key_id_is_used_after_the_next_probe_and_old_objects_are_stale(world: World, api: ApiServer) -> None:
    api.create(secret("old"))
    world.kms.key_id = "key-2"
    assert api.readyz() == {}  # the last result still counts
    api.create(secret("before"))
    assert next_probe(world, api) == {}
    api.create(secret("after"))
    keys = {
        n: envelope.decode("p", api.raw(f"/registry/secrets/default/{n}"))[0].key_id for n in ("old", "before", "after")
    }
    assert keys == {"old": "key-1", "before": "key-1", "after": "key-2"}
    migrated = api.migrate()
    assert (migrated.seen, migrated.rewritten) == (3, 2)
    assert api.migrate().rewritten == 0
    assert {envelope.decode("p", api.raw(f"/registry/secrets/default/{n}"))[0].key_id for n in keys} == {"key-2"}
    assert api.get("Secret", "default", "old")["data"] == {"password": "aHVudGVyMg=="}


def test_migration_does_not_merge_seeds_of_the_current_key(world: World, api: ApiServer) -> None:
    api.create(secret("a"))
    api.restart()
    api.create(secret("b"))
    assert api.migrate().rewritten == 0


def test_an_encrypt_with_another_key_id_than_status_is_thrown_away(world: World, api: ApiServer) -> None:
    api.create(secret("before"))
    world.kms.key_id, world.kms.encrypts_as = "key-2", "key-3"
    assert "failed to rotate DEK" in next_probe(world, api)["p"]
    api.create(secret("meanwhile"))  # the old state stays in force
    assert envelope.decode("p", api.raw("/registry/secrets/default/meanwhile"))[0].key_id == "key-1"
    world.clock.pass_(4)  # a bad result counts for 3 s
    world.kms.encrypts_as = ""
    assert api.readyz() == {}


def test_a_wrong_key_id_at_the_start_fails_reads_too(world: World) -> None:
    world.kms.encrypts_as = "other"
    with world.server() as api:
        with pytest.raises(LabError, match="nil transformer"):
            api.create(secret())
        world.kms.encrypts_as = ""
        world.clock.pass_(4)
        assert api.readyz() == {}
        api.create(secret())
        api.stop()
        world.kms.encrypts_as = "other"
        api.start()
        with pytest.raises(LabError, match="nil transformer"):
            api.get("Secret", "default", "password")


def test_writes_end_three_minutes_after_the_last_good_probe_and_reads_go_on(world: World, api: ApiServer) -> None:
    api.create(secret("a"))
    world.kms.down = True
    world.clock.pass_(179)
    assert "Unavailable" in api.readyz()["p"]
    api.create(secret("b"))
    world.clock.pass_(2)
    with pytest.raises(LabError, match="expired"):
        api.create(secret("c"))
    assert api.get("Secret", "default", "a")["data"] == {"password": "aHVudGVyMg=="}
    world.kms.down = False
    world.clock.pass_(4)
    assert api.readyz() == {}
    api.create(secret("c"))
    assert world.kms.count("Encrypt") == 1  # the key_id is the same: the old seed is taken up again


def test_a_bad_healthz_fails_readiness_and_still_extends_the_write_time(world: World, api: ApiServer) -> None:
    world.kms.healthz = "the disk is nearly full"
    for _ in range(20):
        assert "the disk is nearly full" in next_probe(world, api)["p"]
    api.create(secret())


@pytest.mark.parametrize("key_id", ["", "k" * 1025])
def test_an_invalid_key_id_stops_the_extension(world: World, api: ApiServer, key_id: str) -> None:
    world.kms.key_id = key_id
    for _ in range(10):
        assert "got invalid KMSv2 KeyID hash" in next_probe(world, api)["p"]
    with pytest.raises(LabError, match="expired"):
        api.create(secret())


def test_the_version_may_not_change(world: World, api: ApiServer) -> None:
    world.kms.version = "v2beta1"
    assert "should not change after the initial status response" in next_probe(world, api)["p"]
    api.restart()
    assert api.readyz() == {}
    world.kms.version = "v3"
    assert "expected KMSv2 API version v2, got v3" in next_probe(world, api)["p"]


@pytest.mark.parametrize(
    ("annotations", "size", "words"),
    [
        ({"nodot": b"x"}, 0, "fully qualified domain name"),
        ({"a.example.org": b"x" * 32768}, 0, "total size of annotations"),
        ({}, 1025, "encrypted DEK source is 1025 bytes"),
    ],
)
def test_an_answer_outside_the_limits_is_not_used(
    world: World, annotations: dict[str, bytes], size: int, words: str
) -> None:
    world.kms.annotations, world.kms.ciphertext_size = annotations, size
    with world.server() as api:
        assert words in api.readyz()["p"]
        with pytest.raises(LabError, match="nil transformer"):
            api.create(secret())


def test_annotations_travel_with_every_object(world: World) -> None:
    world.kms.annotations = {"a.example.org": b"1"}
    with world.server() as api:
        api.create(secret())
        api.restart()
        api.get("Secret", "default", "password")
        assert envelope.decode("p", api.raw(PATH))[0].annotations == {"a.example.org": b"1"}


def test_readyz_asks_again_after_20_and_after_3_seconds(world: World, api: ApiServer) -> None:
    asked = world.kms.count("Status")
    world.clock.pass_(19)
    api.readyz()
    assert world.kms.count("Status") == asked
    world.kms.down = True
    world.clock.pass_(2)
    assert api.readyz() != {}
    world.clock.pass_(2.9)
    assert api.readyz() != {}
    assert world.kms.count("Status") == asked + 1
    world.clock.pass_(0.2)
    api.readyz()
    assert world.kms.count("Status") == asked + 2


def test_a_plugin_that_hangs_is_given_up_after_the_timeout(world: World) -> None:
    world.kms.hang.clear()
    with world.server(world.provider(timeout=0.2)) as api:
        assert "DeadlineExceeded" in api.readyz()["p"]
        world.kms.hang.set()


def test_a_plugin_that_is_not_there_yet_is_waited_for_within_the_timeout(world: World, servers: Servers) -> None:
    with world.server(world.provider(timeout=0.2, socket="late.sock")) as api:
        assert "DeadlineExceeded" in api.readyz()["p"]


def test_a_seed_is_fetched_again_a_day_later(world: World, api: ApiServer) -> None:
    api.create(secret("old"))
    world.kms.key_id = "key-2"
    next_probe(world, api)
    world.kms.calls.clear()
    world.clock.pass_(86400)
    api.get("Secret", "default", "old")
    assert world.kms.calls == []  # too old, and still there until something is written
    api.readyz()
    api.create(secret("new"))
    api.get("Secret", "default", "old")
    assert world.kms.count("Decrypt") == 1


def test_one_object_that_cannot_be_decrypted_fails_the_list_and_cannot_be_deleted(world: World, api: ApiServer) -> None:
    api.create(secret("good"))
    api.create(secret("bad"))
    moved = api.raw("/registry/secrets/default/bad")
    api.stop()
    with sqlite3.connect(world.folder / "etcd.sqlite") as db:
        db.execute("UPDATE kv SET key = '/registry/secrets/default/moved' WHERE value = ?", (moved,))
    db.close()
    api.start()
    with pytest.raises(LabError, match="message authentication failed"):
        api.list("Secret", "default")
    with pytest.raises(LabError, match="message authentication failed"):
        api.delete("Secret", "default", "moved")
    api.delete("Secret", "default", "good")


def test_a_write_is_a_compare_and_swap(api: ApiServer) -> None:
    first = api.create(secret())
    with pytest.raises(Conflict):
        api.create(secret())
    second = api.update({**first, "data": {"password": "eA=="}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    with pytest.raises(Conflict, match="the object has been modified"):
        api.update(first)
    assert api.update(second) == second  # nothing changed and nothing is stale: nothing is written


def test_moving_between_providers(world: World, servers: Servers, api: ApiServer) -> None:
    """identity -> kms -> another kms -> identity; what the first in the list did not write is stale."""
    api.stop()
    other = FakeKms("other-1")
    servers.serve(world.folder / "other.sock", other.add)
    kms, second, identity = world.provider(), world.provider("q", socket="other.sock"), IdentityProvider()
    heads: list[bytes] = []
    for providers in ([identity], [kms, identity], [second, kms], [identity, second]):
        with world.server(*providers) as server:
            if not heads:
                server.create(secret())
            assert server.migrate().rewritten == (1 if heads else 0)
            heads.append(server.raw(PATH)[:17])
            assert server.get("Secret", "default", "password")["data"] == {"password": "aHVudGVyMg=="}
    assert heads[1:3] == [b"k8s:enc:kms:v2:p:", b"k8s:enc:kms:v2:q:"]
    assert heads[0][:4] == heads[3][:4] == b"k8s\0"
    with world.server(kms) as server, pytest.raises(LabError, match="no matching prefix"):
        server.get("Secret", "default", "password")


@pytest.mark.parametrize(
    "providers",
    [
        [],
        [KmsProvider("", "unix:///a")],
        [KmsProvider("a:b", "unix:///a")],
        [KmsProvider("a", "unix:///a"), KmsProvider("a", "unix:///b")],
        [KmsProvider("a", "unix:///a", timeout=0)],
        [KmsProvider("a", "tcp://localhost:1")],
        [KmsProvider("a", "unix:///@abstract")],
    ],
)
def test_a_configuration_that_is_not_valid_is_refused(folder: Path, providers: list[Provider]) -> None:
    with pytest.raises(LabError):
        ApiServer(folder / "e", providers)


def test_the_background_follows_a_rotation_by_itself(world: World) -> None:
    """The real loop with shorter intervals: after a failure quickly, else slowly."""
    timings = ApiServerTimings(positive=0.05, negative=0.02, ready_ttl=0.0, unready_ttl=0.0)
    with ApiServer(world.folder / "etcd.sqlite", [world.provider()], timings=timings) as api:
        world.kms.key_id = "key-2"
        rotated = api.journal.wait("kms_rotated", timeout=10, match=lambda e: e["key_id"] == "key-2")
        world.kms.down = True
        api.journal.wait("kms_probe", timeout=10, match=lambda e: e.time > rotated.time and e["error"] != "")
        world.kms.down = False
        mark = api.journal.mark()
        api.journal.wait("kms_probe", since=mark, timeout=10, match=lambda e: e["error"] == "")
