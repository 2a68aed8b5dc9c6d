"""The snapshot: an allow-list to read by, one key to write with."""

from __future__ import annotations

import json

import pytest

from plugins.core.errors import ConfigError, FailedPrecondition, InvalidArgument, NotFound
from plugins.kms import document, envelope
from plugins.kms.document import Document
from plugins.kms.keyring import Keyring
from tests.unit.kms import kit

SEED = bytes(range(32))


def with_states(doc: Document, *states: str) -> Document:
    """The document with the states of its keys set by hand."""
    data = json.loads(document.serialise(doc))
    for key, state in zip(data["keys"], states, strict=True):
        key["state"] = state
    return document.parse(json.dumps(data).encode())


def three_keys() -> Document:
    return document.rotate(document.rotate(kit.made(), kit.NOW), kit.NOW)


def test_seals_with_the_active_key() -> None:
    ring = Keyring(three_keys())
    sealed = ring.seal(SEED, None)
    assert sealed.key_id == ring.active.key_id
    assert ring.open(sealed.ciphertext, sealed.key_id) == SEED


def test_old_keys_go_on_reading() -> None:
    doc = kit.made()
    sealed = Keyring(doc).seal(SEED, None)
    for _ in range(3):
        doc = document.rotate(doc, kit.NOW)
    assert Keyring(doc).open(sealed.ciphertext, sealed.key_id) == SEED


def test_a_staged_key_reads_before_it_writes() -> None:
    staged = document.stage(kit.made(), kit.NOW)
    ring, after = Keyring(staged), Keyring(document.activate(staged, kit.NOW))
    assert ring.seal(SEED, staged.keys[1].key_id).key_id == staged.keys[0].key_id
    sealed = after.seal(SEED, None)
    assert sealed.key_id == staged.keys[1].key_id
    assert ring.open(sealed.ciphertext, sealed.key_id) == SEED


def test_follows_what_was_announced_while_that_key_may_write() -> None:
    doc = three_keys()
    first, second, _ = (key.key_id for key in doc.keys)
    ring = Keyring(doc)
    assert ring.seal(SEED, first).key_id == first
    retired = Keyring(with_states(doc, "retired", "retiring", "active"))
    assert retired.seal(SEED, first).key_id == retired.active.key_id
    assert retired.seal(SEED, second).key_id == second
    assert ring.seal(SEED, "np1.never-heard-of").key_id == ring.active.key_id


def test_a_retired_key_does_nothing() -> None:
    doc = three_keys()
    sealed = Keyring(doc).seal(SEED, doc.keys[0].key_id)
    ring = Keyring(with_states(doc, "retired", "retiring", "active"))
    assert ring.retired() == {doc.keys[0].key_id}
    with pytest.raises(FailedPrecondition, match="is retired"):
        ring.open(sealed.ciphertext, sealed.key_id)


def test_only_key_ids_of_the_list_are_read_by() -> None:
    ring = Keyring(kit.made())
    sealed = ring.seal(SEED, None)
    with pytest.raises(NotFound, match="np1"):
        ring.open(sealed.ciphertext, "np1." + "A" * 43)
    with pytest.raises(NotFound, match="sha256:") as caught:
        ring.open(sealed.ciphertext, "../../etc/shadow")
    assert "shadow" not in caught.value.message


def test_an_envelope_beside_another_key_id_is_refused() -> None:
    doc = three_keys()
    ring = Keyring(doc)
    sealed = ring.seal(SEED, None)
    with pytest.raises(InvalidArgument, match="another key_id"):
        ring.open(sealed.ciphertext, doc.keys[0].key_id)


def test_the_same_file_gives_the_same_on_every_node() -> None:
    doc = three_keys()
    one, other = Keyring(doc), Keyring(document.parse(document.serialise(doc)))
    sealed = one.seal(SEED, None)
    assert other.active.key_id == one.active.key_id
    assert other.open(sealed.ciphertext, sealed.key_id) == SEED


def test_a_key_that_does_not_work_is_found_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope.Sealer, "open", lambda self, data: b"something else")
    with pytest.raises(ConfigError, match="does not open what it sealed"):
        Keyring(kit.made())
