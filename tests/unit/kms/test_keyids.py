"""key_ids: derived from all that makes a key what it is, and from nothing else."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.kms import keyids
from plugins.kms.canonical import MAX_PART, join
from tests.unit.kms import kit

BASE = {"cluster": "c1", "lineage": bytes(16), "fingerprint": bytes(32), "version": 1, "epoch": 0}


@pytest.mark.parametrize("vector", kit.vectors(), ids=lambda v: v["name"])
def test_published_vectors(vector: dict[str, str]) -> None:
    secret, lineage = bytes.fromhex(vector["secret"]), bytes.fromhex(vector["lineage"])
    fingerprint = keyids.fingerprint(secret)
    assert fingerprint.hex() == vector["fingerprint"]
    key_id = keyids.derive(vector["cluster"], lineage, fingerprint, int(vector["version"]), int(vector["epoch"]))
    assert key_id == vector["key_id"]
    assert keyids.slot(key_id).hex() == vector["slot"]


@pytest.mark.parametrize(
    "change",
    [{"cluster": "c2"}, {"lineage": b"\1" * 16}, {"fingerprint": b"\1" * 32}, {"version": 2}, {"epoch": 1}],
    ids=lambda change: next(iter(change)),
)
def test_every_part_counts(change: dict[str, object]) -> None:
    assert keyids.derive(**(BASE | change)) != keyids.derive(**BASE)  # type: ignore[arg-type]


def test_the_form_is_opaque_and_short() -> None:
    key_id = keyids.derive(**BASE)  # type: ignore[arg-type]
    assert re.fullmatch(r"np1\.[A-Za-z0-9_-]{43}", key_id)
    assert keyids.well_formed(key_id)


@pytest.mark.parametrize("text", ["", "1", "np1.", "np2." + "a" * 43, "np1." + "a" * 42 + "\n", "np1." + "a" * 44])
def test_what_is_not_of_our_form(text: str) -> None:
    assert not keyids.well_formed(text)


def test_metric_hash_is_the_api_servers() -> None:
    assert keyids.metric_hash("1706707774") == "sha256:" + hashlib.sha256(b"1706707774").hexdigest()


@given(st.lists(st.binary(max_size=20), max_size=5), st.lists(st.binary(max_size=20), max_size=5))
def test_different_parts_never_give_the_same_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (join(*one) == join(*other)) == (one == other)


def test_a_part_that_has_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        join(bytes(MAX_PART + 1))
