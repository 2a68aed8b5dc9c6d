"""Replacing the keyring in force: wholly or not at all."""

from __future__ import annotations

import json
import logging

import pytest
from msgspec import structs

from plugins.core.errors import ConfigError
from plugins.kms import document
from plugins.kms.document import Document
from plugins.kms.keyring import Keyring
from plugins.kms.live import LiveKeyring
from tests.unit.kms import kit


class Shelf:
    """A provider in memory."""

    def __init__(self, doc: Document) -> None:
        self.doc = doc
        self.broken = ""
        self.loads = 0

    def load(self) -> Keyring:
        self.loads += 1
        if self.broken:
            raise ConfigError(self.broken)
        return Keyring(self.doc)

    def identity(self) -> object:
        return id(self.doc), self.broken


def older(doc: Document) -> Document:
    return structs.replace(document.rotate(doc, kit.NOW), generation=doc.generation - 1)


def elsewhere(doc: Document) -> Document:
    return structs.replace(document.rotate(doc, kit.NOW), generation=doc.generation)


def without_its_key(doc: Document) -> Document:
    rotated = document.rotate(doc, kit.NOW)
    return structs.replace(rotated, keys=rotated.keys[1:])


def test_the_next_generation_is_put_in_force() -> None:
    shelf = Shelf(kit.made())
    live = LiveKeyring(shelf)
    before = live.current
    shelf.doc = document.rotate(shelf.doc, kit.NOW)
    live.check()
    assert live.current.generation == 2
    assert before.generation == 1  # whoever holds the old snapshot still has all of it
    assert live.current.active.key_id == document.active(shelf.doc).key_id


def test_nothing_is_read_while_nothing_changes() -> None:
    shelf = Shelf(kit.made())
    live = LiveKeyring(shelf)
    for _ in range(3):
        live.check()
    assert shelf.loads == 1


def test_the_same_again_keeps_the_snapshot() -> None:
    shelf = Shelf(kit.made())
    live = LiveKeyring(shelf)
    before = live.current
    live.reload()
    assert live.current is before


@pytest.mark.parametrize(
    ("successor", "reason"),
    [
        (lambda doc: kit.made(), "another keyring"),
        (older, "older copy"),
        (elsewhere, "changed in two places"),
        (without_its_key, "keys in use are missing"),
    ],
    ids=["another", "older", "two places", "key missing"],
)
def test_what_is_no_successor_is_refused(successor: object, reason: str) -> None:
    shelf = Shelf(document.rotate(kit.made(), kit.NOW))
    live = LiveKeyring(shelf)
    before = live.current
    shelf.doc = successor(shelf.doc)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=reason):
        live.reload()
    live.check()
    assert live.current is before


def test_a_retired_key_may_go() -> None:
    doc = document.rotate(kit.made(), kit.NOW)
    shelf = Shelf(doc)
    live = LiveKeyring(shelf)
    data = json.loads(document.serialise(doc))
    data["generation"] += 1
    data["keys"][0] |= {"state": "retired", "secret": None}
    shelf.doc = document.parse(json.dumps(data).encode())
    live.reload()
    assert live.current.retired() == {doc.keys[0].key_id}


def test_a_bad_one_is_logged_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(kit.made())
    live = LiveKeyring(shelf)
    shelf.broken = "mode 0644: chmod 0600 it"
    with caplog.at_level(logging.ERROR, logger="nodeplug"):
        for _ in range(3):
            live.check()
        assert [record.fields["reason"] for record in caplog.records] == [shelf.broken]  # type: ignore[attr-defined]
        shelf.doc, shelf.broken = document.rotate(shelf.doc, kit.NOW), ""
        live.check()
        assert live.current.generation == 2
        shelf.broken = "mode 0644: chmod 0600 it"
        live.check()
    assert len(caplog.records) == 2


def test_no_start_without_a_keyring() -> None:
    shelf = Shelf(kit.made())
    shelf.broken = "there is none"
    with pytest.raises(ConfigError, match="there is none"):
        LiveKeyring(shelf)
