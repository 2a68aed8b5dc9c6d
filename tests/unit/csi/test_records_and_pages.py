"""What is remembered, and how it is listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import Aborted, InvalidArgument
from plugins.core.store import Store
from plugins.csi.model import AccessMode, Publication, Staging, Volume
from plugins.csi.records import MIGRATIONS, Records
from plugins.csi.volumes import Volumes


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    store = Store(tmp_path / "state.db", MIGRATIONS)
    yield Records(store)
    store.close()


def volume(name: str, **changes: Any) -> Volume:
    made = Volume(0, f"id-{name}", f"token-{name}", name, 4096, "ext4", True, False, False, {"a": "b"}, 1.5)
    return dataclasses.replace(made, **changes)


def add(records: Records, name: str) -> Volume:
    made = volume(name)
    records.add(made, records.announce("create", made.id))
    return made


def lister(records: Records) -> Volumes:
    nothing = cast(Any, None)
    return Volumes(records, *([nothing] * 5), node="n", topology_key="k", default_fs="ext4", default_size=1 << 30)


def test_a_volume_comes_back_as_it_was(records: Records) -> None:
    made = add(records, "one")
    found = records.volume("id-one")
    assert found is not None
    assert dataclasses.replace(found, seq=0) == made
    assert records.named("one") == found
    assert records.intents() == []


def test_an_intent_lives_until_it_is_settled(records: Records) -> None:
    intent = records.announce("create", "id", token="t")
    assert [i.data for i in records.intents()] == [{"token": "t"}]
    records.settle(intent)
    assert records.intents() == []


def test_a_staged_volume_counts_as_used(records: Records) -> None:
    add(records, "one")
    staging = Staging("id-one", "/path", False, "ext4", ("noatime",))
    records.stage(staging)
    found = records.volume("id-one")
    assert found is not None
    assert found.used
    assert records.staging("id-one") == staging


def test_unstage_and_delete_forget_everything_below(records: Records) -> None:
    made = add(records, "one")
    publication = Publication(made.id, "/target", True, AccessMode.SINGLE_NODE_WRITER, ("ro",))
    records.publish(publication)
    assert records.publications(made.id) == [publication]
    records.unstage(made.id)
    assert records.all_publications() == []
    records.publish(publication)
    records.remove(made.id, records.announce("delete", made.id))
    assert (records.volumes(), records.all_publications(), records.intents()) == ([], [], [])


def test_pages_come_in_order_and_end(records: Records) -> None:
    for number in range(5):
        add(records, str(number))
    volumes, seen, token = lister(records), [], ""
    while True:
        page, token = volumes.page(token, 2)
        seen += [v.name for v in page]
        if not token:
            break
    assert seen == ["0", "1", "2", "3", "4"]
    assert [v.name for v in volumes.page("", 0)[0]] == seen
    assert volumes.page("", 5)[1] == ""


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "page"]), st.integers(0, 9)), max_size=40))
def test_a_volume_that_exists_all_the_while_is_listed_once(steps: list[tuple[str, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s.db", MIGRATIONS)
        records = Records(store)
        lasting = [add(records, f"lasting-{n}").name for n in range(4)]
        volumes, seen, token, turned = lister(records), [], "", 0
        for action, number in steps:
            name = f"passing-{number}"
            if action == "add" and not records.named(name):
                add(records, name)
            elif action == "remove" and records.named(name):
                records.remove(f"id-{name}", records.announce("delete", f"id-{name}"))
            elif action == "page" and (token or not turned):
                page, token = volumes.page(token, 2)
                seen += [v.name for v in page]
                turned += 1
        while token or not turned:
            page, token = volumes.page(token, 2)
            seen += [v.name for v in page]
            turned += 1
        store.close()
    assert [name for name in seen if name in lasting] == lasting


@pytest.mark.parametrize("token", ["x", "1", "v1-", "v1-x", "v1--1", "v1-" + "9" * 19, "v1-١"])
def test_other_tokens_are_refused(records: Records, token: str) -> None:
    with pytest.raises(Aborted):
        lister(records).page(token, 1)


def test_a_negative_page_is_refused(records: Records) -> None:
    with pytest.raises(InvalidArgument):
        lister(records).page("", -1)
