"""What kube-apiserver asks and checks, on a real socket; and what hostile requests get."""

from __future__ import annotations

import json
import os
import random

import grpc
import pytest

from plugins.api.kms.v2 import kms_pb2 as pb
from tests.contract.kms.daemon_kit import Client, KmsDaemon, run

SEED = os.urandom(32)
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.fixture
def client(kms: KmsDaemon) -> Client:
    return kms.start()


def test_status_encrypt_decrypt(client: Client) -> None:
    """The checks of the API server's envelope transformer, one by one."""
    status = client.status()
    assert (status.version, status.healthz) == ("v2", "ok")
    assert 1 <= len(status.key_id) <= 1023
    sealed = client.encrypt(SEED)
    assert sealed.key_id == status.key_id
    assert 1 <= len(sealed.ciphertext) <= 1023
    assert not sealed.annotations
    assert SEED not in sealed.ciphertext
    assert client.decrypt(sealed) == SEED


def test_any_caller_may_encrypt_before_it_asked(client: Client) -> None:
    assert client.encrypt(SEED).key_id == client.look().key_id


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": b""},
        {"ciphertext": bytes(1024)},
        {"ciphertext": b"\xe1"},
        {"ciphertext": b"vault:v1:AAAA"},
        {"ciphertext": bytes(114)},
        {"ciphertext": bytes(2_000_000)},
        {"key_id": ""},
        {"key_id": "k" * 1024},
        {"uid": "u" * 5000},
        {"annotations": {"version.example.com": b"1"}},
        {"annotations": {"not a domain": b"x" * 40000}},
    ],
    ids=lambda change: f"{next(iter(change))}-{len(str(next(iter(change.values()))))}",
)
def test_a_decrypt_that_no_encrypt_made(client: Client, change: dict[str, object]) -> None:
    sealed = client.encrypt(SEED)
    fields = {"ciphertext": sealed.ciphertext, "key_id": sealed.key_id, "uid": "u"} | change
    assert client.code(pb.DecryptRequest(**fields)) is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[arg-type]
    assert client.status().healthz == "ok"


@pytest.mark.parametrize("key_id", ["1", "np1." + "A" * 43, "../keyring.json", "k" * 1023, "\N{SNOWMAN}" * 300])
def test_a_key_id_that_is_not_ours(client: Client, key_id: str) -> None:
    sealed = client.encrypt(SEED)
    assert client.code(pb.DecryptRequest(ciphertext=sealed.ciphertext, key_id=key_id)) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("plaintext", [b"", bytes(942), bytes(2_000_000)], ids=len)
def test_an_encrypt_that_no_api_server_sends(client: Client, plaintext: bytes) -> None:
    assert client.code(pb.EncryptRequest(plaintext=plaintext)) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_key_that_is_retired(kms: KmsDaemon) -> None:
    """Retired by hand in the document, as a later release will do."""
    kms.rotate()
    document = json.loads(kms.keyring.read_text())
    document["keys"][0] |= {"state": "retired", "secret": None}
    kms.keyring.write_text(json.dumps(document))
    client = kms.start()
    request = pb.DecryptRequest(ciphertext=client.encrypt(SEED).ciphertext, key_id=document["keys"][0]["key_id"])
    assert client.code(request) is grpc.StatusCode.FAILED_PRECONDITION


def test_fuzzed_requests_are_refused_and_nothing_else_happens(kms: KmsDaemon, client: Client) -> None:
    """Mutations of a valid request; the seed of the generator is in the failure's message."""
    sealed = client.encrypt(SEED)
    origin = random.randrange(1 << 32)
    chance = random.Random(origin)
    for _ in range(2000):
        request = mutated(chance, sealed)
        assert client.code(request) in REFUSED, f"generator {origin}: {request}"
    assert client.status().healthz == "ok"
    assert client.decrypt(sealed) == SEED
    assert [line for line in kms.log() if line["level"] == "error"] == []


def mutated(chance: random.Random, sealed: pb.EncryptResponse) -> pb.DecryptRequest:
    """A request that differs from the valid one in at least one place."""
    ciphertext, key_id = bytearray(sealed.ciphertext), sealed.key_id
    kind = chance.randrange(5)
    if kind == 0:
        ciphertext[chance.randrange(len(ciphertext))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del ciphertext[chance.randrange(len(ciphertext)) :]
    elif kind == 2:
        ciphertext[chance.randrange(len(ciphertext)) :] = chance.randbytes(chance.randrange(1, 1200))
    elif kind == 3:
        position = chance.randrange(len(key_id))
        key_id = key_id[:position] + chr(chance.randrange(1, 0xD800)) * chance.randrange(2, 9) + key_id[position:]
    else:
        ciphertext = bytearray(chance.randbytes(chance.randrange(1, 1024)))
    return pb.DecryptRequest(ciphertext=bytes(ciphertext), key_id=key_id, uid="u")


def test_neither_log_nor_answers_hold_secrets(kms: KmsDaemon) -> None:
    client = kms.start("--set", "log_level=debug")
    sealed = client.encrypt(SEED)
    assert client.decrypt(sealed) == SEED
    broken = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
    with pytest.raises(grpc.RpcError) as caught:
        client.decrypt(pb.EncryptResponse(ciphertext=broken, key_id=sealed.key_id))
    kms.end()
    told = kms.log_file.read_text() + str(caught.value)
    secret = json.loads(kms.keyring.read_text())["keys"][0]["secret"]
    for hidden in (SEED, broken, sealed.ciphertext):
        for form in (hidden.hex(), repr(hidden)[2:-1], hidden[:12].hex()):
            assert form not in told
    assert secret not in told
    assert sealed.key_id in told  # the log can be read beside the API server's metrics


def test_status_of_the_tool_is_the_api_servers(kms: KmsDaemon, client: Client) -> None:
    done = run("status", str(kms.socket))
    assert done.returncode == 0
    assert client.look().key_id in done.stdout


def test_the_log_says_when_a_new_key_is_taken_up(kms: KmsDaemon, client: Client) -> None:
    first = client.status().key_id
    client.status()
    second = kms.rotate()
    kms.took(2)
    client.status()
    assert [line["key_id"] for line in kms.log() if line["message"] == "announced to a caller"] == [first, second]
