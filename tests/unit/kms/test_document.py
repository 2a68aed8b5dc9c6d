"""The keyring document: what it may say, and how it changes."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import ConfigError
from plugins.kms import document
from plugins.kms.document import Document, State
from tests.unit.kms import kit


def states(doc: Document) -> list[str]:
    return [key.state.value for key in doc.keys]


def test_a_new_keyring_has_one_active_key() -> None:
    doc = kit.made()
    assert (states(doc), doc.generation, doc.keys[0].version) == (["active"], 1, 1)
    assert kit.made().lineage != doc.lineage


def test_what_is_written_is_read() -> None:
    doc = document.rotate(kit.made(), kit.NOW)
    assert document.parse(document.serialise(doc)) == doc


def test_rotate_keeps_the_old_key_for_reading() -> None:
    first = kit.made()
    second = document.rotate(first, kit.NOW)
    assert states(second) == ["retiring", "active"]
    assert second.generation == first.generation + 1
    assert second.keys[0].secret == first.keys[0].secret
    assert second.keys[1].version == 2


def test_two_steps_for_several_nodes() -> None:
    first = kit.made()
    staged = document.stage(first, kit.NOW)
    assert states(staged) == ["active", "staged"]
    assert document.active(staged).key_id == document.active(first).key_id
    activated = document.activate(staged, kit.NOW)
    assert states(activated) == ["retiring", "active"]
    assert document.active(activated).key_id == staged.keys[1].key_id


def test_a_staged_key_is_not_passed_over() -> None:
    staged = document.stage(kit.made(), kit.NOW)
    for step in (document.rotate, document.stage):
        with pytest.raises(ConfigError, match="is staged already"):
            step(staged, kit.NOW)


def test_nothing_to_activate() -> None:
    with pytest.raises(ConfigError, match="no key is staged"):
        document.activate(kit.made(), kit.NOW)


@given(st.lists(st.sampled_from(["rotate", "stage", "activate"]), max_size=12))
def test_whatever_is_done_one_key_writes_and_none_is_lost(steps: list[str]) -> None:
    doc = kit.made()
    for step in steps:
        before = {key.key_id for key in doc.keys}
        try:
            doc = getattr(document, step)(doc, kit.NOW)
        except ConfigError:
            continue
        assert before <= {key.key_id for key in doc.keys}
        assert states(doc).count("active") == 1
        assert [key.version for key in doc.keys] == list(range(1, len(doc.keys) + 1))
    assert document.parse(document.serialise(doc)) == doc


@pytest.mark.parametrize("name", ["", "-a", "a b", "a" * 254, "a/b", "a\n"])
def test_names_that_cannot_be_bound_to(name: str) -> None:
    with pytest.raises(ConfigError):
        document.create(name, "nodeplug", kit.NOW)
    with pytest.raises(ConfigError):
        document.create("c", name, kit.NOW)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "retiring"}, "0 keys are active"),
        ({"state": "gone"}, "not a valid keyring"),
        ({"secret": None}, "is active and has no secret"),
        ({"secret": base64.b64encode(bytes(32)).decode()}, "not 32 random bytes"),
        ({"secret": base64.b64encode(b"changemechangemechangemechangeme").decode()}, "not 32 random bytes"),
        ({"secret": base64.b64encode(bytes(range(31))).decode()}, "not 32 random bytes"),
        ({"secret": base64.b64encode(bytes(range(32))).decode()}, "key_id that is not that of its secret"),
        ({"secret": "not base64!"}, "not a valid keyring"),
        ({"version": 2}, "key_id that is not that of its secret"),
        ({"version": 0}, "not a valid keyring"),
        ({"epoch": 1}, "key_id that is not that of its secret"),
        ({"created": "2026-11-21T06:00:00"}, "not a valid keyring"),
        ({"holder": "vault"}, "unknown field `holder`"),
    ],
    ids=str,
)
def test_a_damaged_key_is_found(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        document.parse(kit.edited(kit.made(), **changes))


def test_a_secret_of_another_keyring_is_found() -> None:
    """Cluster and lineage are part of the key_id: keys cannot be carried from one keyring to another by hand."""
    other = json.loads(document.serialise(kit.made()))["keys"][0]
    with pytest.raises(ConfigError, match="not that of its secret"):
        document.parse(kit.edited(kit.made(), **other))


@pytest.mark.parametrize("same", ["key_id", "version", "secret"])
def test_no_two_keys_are_alike(same: str) -> None:
    data = json.loads(document.serialise(document.rotate(kit.made(), kit.NOW)))
    data["keys"][1][same] = data["keys"][0][same]
    with pytest.raises(ConfigError, match=f"two keys have the same {same}"):
        document.parse(json.dumps(data).encode())


def test_a_retired_key_may_have_lost_its_secret_but_not_its_name() -> None:
    data = json.loads(document.serialise(document.rotate(kit.made(), kit.NOW)))
    data["keys"][0] |= {"state": "retired", "secret": None}
    assert document.parse(json.dumps(data).encode()).keys[0].state is State.RETIRED
    data["keys"][0]["key_id"] = "np1.x"
    with pytest.raises(ConfigError, match="no valid key_id"):
        document.parse(json.dumps(data).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a valid keyring"),
        (b"{", "not a valid keyring"),
        (b"\xff\xfe", "not a valid keyring"),
        (b"[]", "not a valid keyring"),
        (b"{}", "it is not a keyring"),
        (b'{"format": "other"}', "it is not a keyring"),
        (b'{"format": "nodeplug-kms-keyring", "version": 2, "new": 1}', "this release reads version 1"),
        (b'{"format": "nodeplug-kms-keyring", "version": 1, "keys": []}', "not a valid keyring"),
    ],
)
def test_what_is_no_document(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        document.parse(data)


@given(st.data())
def test_a_truncated_or_changed_file_is_refused_or_means_the_same(data: st.DataObject) -> None:
    doc = kit.made()
    raw = bytearray(document.serialise(doc))
    position = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[position:]
    else:
        raw[position] = data.draw(st.integers(0, 255))
    try:
        read = document.parse(bytes(raw))
    except ConfigError as error:
        assert doc.keys[0].secret is not None
        assert base64.b64encode(doc.keys[0].secret).decode() not in error.message
        return
    assert read.keys[0].secret == doc.keys[0].secret
    assert read.keys[0].key_id == doc.keys[0].key_id


def test_the_secret_is_not_part_of_what_a_traceback_shows() -> None:
    doc = kit.made()
    assert doc.keys[0].secret is not None
    assert repr(doc.keys[0].secret) not in repr(doc)
    assert doc.keys[0].key_id in repr(doc)
