"""Rules of snapshots and copies that need no disk: parameters, ids, pages, sizes, records, and the helper's words."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core import command
from plugins.core.errors import Aborted, InvalidArgument, OutOfRange
from plugins.core.store import Store
from plugins.csi import ids, paging
from plugins.csi.host import freezer
from plugins.csi.records import MIGRATIONS, Records
from plugins.csi.snapshot_model import Consistency, Group, Snapshot, consistency
from plugins.csi.snapshot_records import SnapshotRecords
from plugins.csi.sources import Source

MIB = 1 << 20
ODD = 17 * MIB + 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db", MIGRATIONS)
    yield opened
    opened.close()


@pytest.fixture
def records(store: Store) -> SnapshotRecords:
    return SnapshotRecords(store)


def snapshot(name: str, source: str = "vol", held: int = 10, group: str = "") -> Snapshot:
    return Snapshot(
        0, f"id-{name}", f"token-{name}", name, source, 4096, held, "ext4", 1_700_000_000_123_456_789, group
    )


def add(records: SnapshotRecords, *snapshots: Snapshot) -> None:
    for made in snapshots:
        records.add(made, records.announce("snapshot", made.id, [made.token]))


def test_a_snapshot_comes_back_to_the_nanosecond(records: SnapshotRecords) -> None:
    made = snapshot("one")
    add(records, made)
    found = records.snapshot("id-one")
    assert found is not None
    assert dataclasses.replace(found, seq=0) == made
    assert records.named("one") == found


def test_what_a_volumes_snapshots_hold_is_the_largest_of_them(records: SnapshotRecords) -> None:
    add(records, snapshot("a", "v1", 10), snapshot("b", "v1", 30), snapshot("c", "v1", 20), snapshot("d", "v2", 5))
    assert (records.held("v1"), records.held("v2"), records.held("v3")) == (30, 5, 0)
    assert records.all_held() == 35


def test_a_group_is_recorded_whole_and_its_intent_settled(records: SnapshotRecords, store: Store) -> None:
    members = tuple(snapshot(f"g/{n}", f"v{n}", group="group") for n in range(3))
    records.add_group(Group("group", "name", 5, members), records.announce("group", "group", ["t"], ["v0"]))
    found = records.group_named("name")
    assert found is not None
    assert found.source_ids == {"v0", "v1", "v2"}
    assert store.intents() == []
    records.remove_group("group", records.announce("group delete", "group", []))
    assert (records.group("group"), records.snapshots(), store.intents()) == (None, [], [])


def test_a_group_whose_member_cannot_be_recorded_is_not_recorded(records: SnapshotRecords, store: Store) -> None:
    members = (snapshot("same"), snapshot("same"))
    with pytest.raises(Exception, match="UNIQUE"):
        records.add_group(Group("group", "name", 5, members), records.announce("group", "group", ["t"]))
    assert (records.group("group"), records.snapshots()) == (None, [])
    assert [intent.kind for intent in store.intents()] == ["group"]


def test_filters_of_the_list(records: SnapshotRecords) -> None:
    add(records, snapshot("a", "v1"), snapshot("b", "v2"), snapshot("c", "v1"))
    assert [s.name for s in records.snapshots(source_id="v1")] == ["a", "c"]
    assert [s.name for s in records.snapshots(snapshot_id="id-b")] == ["b"]
    assert records.snapshots(source_id="v1", snapshot_id="id-b") == []
    assert [s.name for s in records.snapshots(after=1, limit=1)] == ["b"]


def test_a_volume_remembers_its_source(store: Store) -> None:
    assert Records(store).volumes() == []
    store.execute(
        "INSERT INTO volumes (id, token, name, size, fs, fs_given, block, parameters, created) "
        "VALUES ('i', 't', 'n', 1, 'ext4', 1, 0, '{}', 1)"
    )
    found = Records(store).volume("i")
    assert found is not None
    assert found.source == ""  # as a release that knew of no sources wrote it


def test_parameters_of_a_class() -> None:
    assert consistency({}, Consistency.CRASH) is Consistency.CRASH
    assert consistency({"csi.storage.k8s.io/x": "y"}, Consistency.FILESYSTEM) is Consistency.FILESYSTEM
    assert consistency({"consistency": "filesystem"}, Consistency.CRASH) is Consistency.FILESYSTEM
    for wrong in ({"consistency": ""}, {"Consistency": "crash"}):
        with pytest.raises(InvalidArgument):
            consistency(wrong, Consistency.CRASH)


@given(st.sampled_from([ids.VOLUME, ids.SNAPSHOT, ids.GROUP]), st.sampled_from(["n", "node-1.example"]))
def test_ids_are_of_one_kind_and_one_node(kind: str, node: str) -> None:
    made = str(ids.new(node, kind))
    for other in (ids.VOLUME, ids.SNAPSHOT, ids.GROUP):
        assert (ids.parse(made, other) is not None) == (other == kind)
    assert ids.elsewhere(made, kind, node) == ""
    assert ids.elsewhere(made, kind, "another") == node
    assert ids.elsewhere("not ours", kind, node) == ""


def test_ids_fit_into_csi_on_the_longest_node_name() -> None:
    assert len(str(ids.new("n" * ids.MAX_NODE, ids.GROUP))) <= 128


@dataclasses.dataclass(frozen=True)
class Row:
    seq: int


@given(st.sets(st.integers(1, 60)), st.integers(1, 7), st.lists(st.sets(st.integers(1, 60)), max_size=10))
def test_what_exists_all_the_while_is_listed_once(seqs: set[int], size: int, removals: list[set[int]]) -> None:
    rows, seen, token = set(seqs), list[int](), ""

    def read(after: int, limit: int) -> list[Row]:
        return [Row(seq) for seq in sorted(rows) if seq > after][:limit]

    while True:
        page, token = paging.page(token, size, read)
        seen += [row.seq for row in page]
        if not token:
            break
        if removals:
            rows -= removals.pop()
            rows.add(100 + len(removals))
    assert len(seen) == len(set(seen))
    assert seqs & rows <= set(seen)


def test_tokens_that_are_not_ours() -> None:
    for token in ("x", "v1-", "v1--1", "v1-9999999999999999999", "v1-\u0661"):
        with pytest.raises(Aborted):
            paging.page(token, 0, lambda after, n: [Row(1)])
    with pytest.raises(InvalidArgument):
        paging.page("", -1, lambda after, n: [Row(1)])


@pytest.mark.parametrize(
    ("required", "limit", "size"),
    [
        (0, 0, 17 * MIB + 4096),
        (17 * MIB, 0, 17 * MIB + 4096),
        (18 * MIB + 1, 0, 19 * MIB),
        (0, 40 * MIB, 17 * MIB + 4096),
    ],
)
def test_a_copy_is_as_large_as_its_source_or_larger(required: int, limit: int, size: int) -> None:
    assert Source("s", "t", ODD, "ext4").plan(required, limit) == size


def test_a_copy_is_never_smaller_than_its_source() -> None:
    with pytest.raises(OutOfRange, match="s"):
        Source("s", "t", 17 * MIB, "ext4").plan(0, 16 * MIB)


def test_the_helper_says_which_filesystem_it_could_not_freeze() -> None:
    read, write = os.pipe()
    try:
        argv = [sys.executable, "-I", "-S", freezer.__file__, "5", str(read)]
        with command.Child(argv, fds=[read]) as child:
            child.say("freeze")
            kind, fd, number = child.hear(20).split()
            assert (kind, fd) == ("failed", str(read))
            assert int(number) > 0
    finally:
        os.close(read)
        os.close(write)


def test_the_helper_thaws_at_its_deadline() -> None:
    with command.Child([sys.executable, "-I", "-S", freezer.__file__, "0.2"]) as child:
        child.say("freeze")
        assert child.hear(20) == "frozen"
        assert child.hear(20) == "expired"
        assert child.hear(20) == ""


def test_the_helper_does_not_end_by_a_signal_but_by_the_end_of_its_input() -> None:
    argv = [sys.executable, "-I", "-S", freezer.__file__, "60"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helper:
        assert helper.stdin and helper.stdout
        helper.stdin.write("freeze\n")
        helper.stdin.flush()
        assert helper.stdout.readline() == "frozen\n"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            helper.send_signal(number)
        helper.stdin.close()
        assert helper.stdout.readline() == "thawed\n"
        assert helper.wait(20) == 0
