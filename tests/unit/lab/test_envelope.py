"""The stored format, byte by byte, and against a value that the real API server's code has written."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from plugins.api.kms_storage.v2 import kms_storage_pb2 as pb
from plugins.lab import envelope, objects
from plugins.lab.envelope import EnvelopeError, Sealed
from plugins.lab.errors import LabError

PATH = b"/registry/secrets/default/golden"
SEED = bytes([7]) * 32

# Written by k8s.io/apiserver v0.36.3 (kmsv2, aes_extended_nonce): seed 32 x 0x07, provider "golden", the path above.
GOLDEN = bytes.fromhex(
    "6b38733a656e633a6b6d733a76323a676f6c64656e3a0aa301a9eb9c7103675768d195bf4bc9b01a171490fb61ee8abe13e97261"
    "7088dee8cfe94794ff30e6c156575368a45b082c2f301852508db8ea7e254a884d0bf28c51bfa0c1f19e2b40d6d2ede5e734cb5b"
    "d07d9193fd0d2f96ef3151fa5f53e035c037c24947479324756b0bff4f1e319cdefb3cd9d5543608ab9ddc249642f1a2a861d58f"
    "a4431635e7135e93aace138364a7e535e536056dacd732ae352aebd9a002c2d412056b65792d311a0b7365616c65642073656564"
    "22150a106e6f74652e6578616d706c652e6f72671201782801"
)
# Written by k8s.io/apimachinery v0.36.3 (serializer/protobuf) for the same Secret.
GOLDEN_OBJECT = bytes.fromhex(
    "6b3873000a0c0a0276311206536563726574124f0a300a06676f6c64656e12001a0764656661756c7422002a03752d3132003800"
    "42080880e2cfaa0610005a060a016112016212130a0870617373776f7264120768756e746572321a064f70617175651a002200"
)
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {
        "name": "golden",
        "namespace": "default",
        "uid": "u-1",
        "creationTimestamp": "2023-11-14T22:13:20Z",
        "labels": {"a": "b"},
    },
    "data": {"password": "aHVudGVyMg=="},
    "type": "Opaque",
}
SEALED = Sealed("key-1", b"sealed seed", {"note.example.org": b"x"})


def expand(seed: bytes, info: bytes) -> bytes:
    """HKDF-Expand for one block (RFC 5869, 2.3): T(1) = HMAC(PRK, info | 0x01)."""
    return hmac.new(seed, info + b"\x01", hashlib.sha256).digest()


def test_a_value_of_the_real_api_server_is_read() -> None:
    sealed, data = envelope.decode("golden", GOLDEN)
    assert sealed == SEALED
    assert objects.decode(envelope.unseal(SEED, data, PATH, seed=True)) == SECRET


def test_an_object_has_the_fields_that_the_real_serializer_writes() -> None:
    """Go's code writes empty texts too, so the bytes differ; what they say does not."""
    assert objects.decode(GOLDEN_OBJECT) == SECRET
    assert objects.decode(objects.encode(SECRET)) == SECRET
    assert objects.encode(SECRET).startswith(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12")


def test_the_key_is_hkdf_expand_without_extract() -> None:
    """RFC 5869, test case 1: its PRK and info; the first 32 bytes of its OKM."""
    prk = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    okm = bytes.fromhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    assert envelope._derive(prk, info) == expand(prk, info) == okm


def test_the_data_is_info_nonce_ciphertext_tag() -> None:
    data = envelope.seal(SEED, b"plain", PATH)
    assert len(data) == 32 + 12 + len(b"plain") + 16
    info, nonce, rest = data[:32], data[32:44], data[44:]
    assert AESGCM(expand(SEED, info)).decrypt(nonce, rest, PATH) == b"plain"


def test_the_tags_are_the_published_ones() -> None:
    value = envelope.encode("p", SEALED, b"d")
    body = value.removeprefix(b"k8s:enc:kms:v2:p:")
    assert body.startswith(b"\x0a\x01d\x12\x05key-1\x1a\x0bsealed seed\x22")
    assert body.endswith(b"\x28\x01")
    assert b"\x0a\x10note.example.org\x12\x01x" in body


@given(st.binary(max_size=300), st.text(min_size=1, max_size=40))
def test_what_is_sealed_is_unsealed_and_under_no_other_path(plaintext: bytes, path: str) -> None:
    data = envelope.seal(SEED, plaintext, path.encode())
    assert envelope.unseal(SEED, data, path.encode(), seed=True) == plaintext
    with pytest.raises(EnvelopeError, match="authentication failed"):
        envelope.unseal(SEED, data, path.encode() + b"x", seed=True)


@given(st.integers(min_value=0, max_value=len(GOLDEN) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_an_error_or_leaves_the_object_as_it_was(position: int, difference: int) -> None:
    """key_id, source and annotations are not authenticated by the API server: that is the plugin's part."""
    broken = bytearray(GOLDEN)
    broken[position] ^= difference
    try:
        _, data = envelope.decode("golden", bytes(broken))
        plaintext = envelope.unseal(SEED, data, PATH, seed=True)
    except EnvelopeError:
        return
    assert objects.decode(plaintext) == SECRET


def test_objects_of_old_releases_are_read() -> None:
    """AES_GCM_KEY of 1.27 and 1.28: nonce | ciphertext | tag under the key itself."""
    nonce = b"n" * 12
    stored = pb.EncryptedObject(
        encryptedData=nonce + AESGCM(SEED).encrypt(nonce, b"old", PATH), keyID="k", encryptedDEKSource=b"s"
    )
    sealed, data = envelope.decode("p", envelope.prefix("p") + stored.SerializeToString())
    assert sealed.seed is False
    assert envelope.unseal(SEED, data, PATH, seed=False) == b"old"


@pytest.mark.parametrize(
    ("sealed", "words"),
    [
        (Sealed("", b"s"), "keyID is empty"),
        (Sealed("k" * 1025, b"s"), "exceeds the max size of 1024"),
        (Sealed("k", b""), "encrypted DEK source is empty"),
        (Sealed("k", b"s" * 1025), "encrypted DEK source is 1025 bytes"),
        (Sealed("k", b"s", {"nodot": b""}), "fully qualified domain name"),
        (Sealed("k", b"s", {"a_b.example.org": b""}), "fully qualified domain name"),
        (Sealed("k", b"s", {"a.example.org": b"x" * 32768}), "total size of annotations"),
    ],
)
def test_the_limits_of_the_api_server(sealed: Sealed, words: str) -> None:
    with pytest.raises(EnvelopeError, match=words):
        envelope.encode("p", sealed, b"d")


@pytest.mark.parametrize(
    "sealed",
    [Sealed("k" * 1024, b"s" * 1024), Sealed("k", b"s", {"a.example.org.": b"", "b.c": b"x" * 32000})],
)
def test_what_is_just_within_the_limits_is_taken(sealed: Sealed) -> None:
    assert envelope.decode("p", envelope.encode("p", sealed, b"d")) == (sealed, b"d")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encryptedData": b""}, "encrypted data is empty"),
        ({"encryptedDEKSourceType": 7}, "unknown encryptedDEKSourceType: 7"),
        ({"keyID": ""}, "keyID is empty"),
    ],
)
def test_a_stored_value_is_checked_when_it_is_read(change: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {"encryptedData": b"d", "keyID": "k", "encryptedDEKSource": b"s", **change}
    with pytest.raises(EnvelopeError, match=words):
        envelope.decode("p", envelope.prefix("p") + pb.EncryptedObject(**fields).SerializeToString())


@pytest.mark.parametrize("value", [b"", b"k8s:enc:kms:v2:other:x", b"k8s:enc:kms:v2:p:\xff\xff"])
def test_what_is_no_value_of_this_provider_is_refused(value: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelope.decode("p", value)


def test_the_cache_key_tells_everything_apart() -> None:
    different = [
        SEALED,
        Sealed("key-2", b"sealed seed", SEALED.annotations),
        Sealed("key-1", b"sealed seed2", SEALED.annotations),
        Sealed("key-1", b"sealed seed"),
        Sealed("key-1", b"sealed seed", {"note.example.org": b"y"}),
        Sealed("key-1", b"sealed seed", SEALED.annotations, seed=False),
    ]
    assert len({s.cache_key() for s in different}) == len(different)
    assert SEALED.cache_key() == Sealed("key-1", b"sealed seed", {"note.example.org": b"x"}).cache_key()


def test_a_secret_with_a_field_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(LabError, match=r"no field metadata\.ownerReferences"):
        objects.encode({**SECRET, "metadata": {"name": "x", "ownerReferences": []}})
    with pytest.raises(LabError, match="is not base64"):
        objects.encode({**SECRET, "data": {"a": "%%%"}})


def test_other_kinds_are_json() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "namespace": "y"},
        "data": {"a": "b"},
    }
    assert objects.encode(manifest).startswith(b"{")
    assert objects.decode(objects.encode(manifest)) == manifest
