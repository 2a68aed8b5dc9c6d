"""The envelope: the defined bytes, and nothing but them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import InvalidArgument
from plugins.kms import envelope
from plugins.kms.limits import CIPHERTEXT_MAX
from tests.unit.kms import kit

SECRET = bytes(range(32))
SEED = bytes(range(100, 132))


@pytest.mark.parametrize("vector", kit.vectors(), ids=lambda v: v["name"])
def test_published_vectors(vector: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    sealer = kit.sealer(bytes.fromhex(vector["secret"]), vector["cluster"], vector["provider"], vector["key_id"])
    sealed, plaintext = bytes.fromhex(vector["envelope"]), bytes.fromhex(vector["plaintext"])
    assert sealer.open(sealed) == plaintext
    monkeypatch.setattr(os, "urandom", lambda size: bytes.fromhex(vector["nonce"])[:size])
    assert sealer.seal(plaintext) == sealed


def test_a_seed_takes_114_bytes() -> None:
    assert len(kit.sealer(SECRET).seal(SEED)) == 114


def test_the_longest_plaintext_still_fits() -> None:
    plaintext = os.urandom(envelope.PLAINTEXT_MAX)
    sealed = kit.sealer(SECRET).seal(plaintext)
    assert len(sealed) == CIPHERTEXT_MAX
    assert kit.sealer(SECRET).open(sealed) == plaintext


def test_no_two_envelopes_are_equal() -> None:
    sealer = kit.sealer(SECRET)
    assert len({sealer.seal(SEED) for _ in range(100)}) == 100


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=envelope.PLAINTEXT_MAX))
def test_round_trip(secret: bytes, plaintext: bytes) -> None:
    assert kit.sealer(secret).open(kit.sealer(secret).seal(plaintext)) == plaintext


def test_any_flipped_bit_is_refused() -> None:
    sealer = kit.sealer(SECRET)
    sealed = sealer.seal(SEED)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidArgument):
            sealer.open(bytes(changed))


def test_any_other_length_is_refused() -> None:
    sealer = kit.sealer(SECRET)
    sealed = sealer.seal(SEED)
    for changed in [*(sealed[:size] for size in range(len(sealed))), sealed + b"\0", sealed * 9]:
        with pytest.raises(InvalidArgument):
            sealer.open(changed)


@given(st.binary(max_size=1100))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(InvalidArgument):
        kit.sealer(SECRET).open(garbage)


@given(st.binary(min_size=104, max_size=1100))
def test_garbage_with_a_valid_head_is_refused(garbage: bytes) -> None:
    sealer = kit.sealer(SECRET)
    with pytest.raises(InvalidArgument):
        sealer.open(sealer.seal(SEED)[:10] + garbage)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (kit.sealer(SECRET, key_id="np1.other"), "another key_id"),
        (kit.sealer(SECRET, cluster="c2"), "another key, or for another cluster"),
        (kit.sealer(SECRET, provider="second"), "another key, or for another cluster"),
        (kit.sealer(SECRET[::-1]), "another key, or for another cluster"),
    ],
    ids=["key_id", "cluster", "provider", "secret"],
)
def test_an_envelope_opens_only_where_it_belongs(other: envelope.Sealer, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        other.open(kit.sealer(SECRET).seal(SEED))


def test_a_commitment_and_slot_of_another_key_do_not_help() -> None:
    """The label, slot and commitment replaced by those of another key: what is left still has to authenticate."""
    other = kit.sealer(SECRET[::-1], key_id="np1.other")
    mine, theirs = kit.sealer(SECRET).seal(SEED), other.seal(SEED)
    with pytest.raises(InvalidArgument, match="does not authenticate"):
        other.open(theirs[:10] + mine[10:34] + theirs[34:66] + mine[66:])


def test_errors_tell_neither_plaintext_nor_key() -> None:
    sealer = kit.sealer(SECRET)
    sealed = bytearray(sealer.seal(SEED))
    sealed[-1] ^= 1
    with pytest.raises(InvalidArgument) as caught:
        sealer.open(bytes(sealed))
    assert caught.value.__cause__ is None
    for hidden in (SEED, SECRET, bytes(sealed)):
        assert hidden.hex() not in repr(caught.value) + caught.value.detail


def test_a_key_of_another_size_is_no_key() -> None:
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        kit.sealer(bytes(31))
