"""What the lab's API server stores, reads back and migrates, with one KMS plugin and with several."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from plugins.lab import envelope
from plugins.lab.apiserver import ApiServer
from plugins.lab.encryption import IdentityProvider, KmsProvider, Provider
from plugins.lab.errors import LabError
from plugins.lab.etcd import Conflict
from tests.contract.lab.fake_kms import FakeKms
from tests.contract.lab.fakes import Servers
from tests.contract.lab.kms_world import World, next_probe, secret

PATH = "/registry/secrets/default/password"


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


def test_migration_does_not_merge_seeds_of_the_current_key(world: World, api: ApiServer) -> None:
    api.create(secret("a"))
    api.restart()
    api.create(secret("b"))
    assert api.migrate().rewritten == 0


def test_annotations_travel_with_every_object(world: World) -> None:
    world.kms.annotations = {"a.example.org": b"1"}
    with world.server() as api:
        api.create(secret())
        api.restart()
        api.get("Secret", "default", "password")
        assert envelope.decode("p", api.raw(PATH))[0].annotations == {"a.example.org": b"1"}


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
