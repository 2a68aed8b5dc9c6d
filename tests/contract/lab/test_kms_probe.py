"""How the lab's API server follows a KMS plugin: health, key_id, write time. The clock is the test's own."""

from __future__ import annotations

import pytest

from plugins.lab import envelope
from plugins.lab.apiserver import ApiServer
from plugins.lab.errors import LabError
from plugins.lab.timings import ApiServerTimings
from tests.contract.lab.fakes import Servers
from tests.contract.lab.kms_world import World, next_probe, secret


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
