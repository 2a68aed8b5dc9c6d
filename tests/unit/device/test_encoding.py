"""The kubelet's view of a list: complete after each change, cut where the kubelet could not receive it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from plugins.device.encoding import Encoder
from plugins.device.inventory import Inventory
from tests.unit.device.kit import device, pci, rule

Seen = dict[str, tuple[str, list[int]]]


def seen(message: pb.ListAndWatchResponse) -> Seen:
    return {d.ID: (d.health, [node.ID for node in d.topology.nodes]) for d in message.devices}


def inventory(*devices: Any) -> Inventory:
    made = Inventory([rule()])
    made.replace(devices)
    return made


def test_health_and_numa_node() -> None:
    parents = (pci("0000:21:00.0", 1),)
    made = inventory(device("a"), device("b", problem="gone", node="/dev/b"), device("c", parents=parents))
    assert seen(Encoder().message(made.snapshot("it"))) == {
        "a": ("Healthy", []),
        "b": ("Unhealthy", []),
        "pci-0000-21-00-0-c": ("Healthy", [1]),
    }


def test_an_empty_list_is_a_message_too() -> None:
    assert seen(Encoder().message(inventory().snapshot("it"))) == {}


def test_the_message_is_another_object_only_if_the_kubelet_would_see_a_difference() -> None:
    made, encoder = inventory(device("a"), device("b")), Encoder()
    first = encoder.message(made.snapshot("it"))
    made.apply({device("a").sys_path: device("a", properties={"ID_X": "1"})})
    assert encoder.message(made.snapshot("it")) is first
    made.apply({device("a").sys_path: None})
    assert seen(encoder.message(made.snapshot("it"))) == {"b": ("Healthy", [])}


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "gone"])), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_patched_or_made_anew_it_is_the_same_list(history: list[dict[str, str]], skipped: set[int]) -> None:
    made, encoder = inventory(), Encoder()
    for step, state in enumerate(history):
        made.replace([device(name, problem=problem) for name, problem in state.items()])
        if step not in skipped:
            assert seen(encoder.message(made.snapshot("it"))) == seen(Encoder().message(made.snapshot("it")))
    expected: Seen = {name: ("Unhealthy" if problem else "Healthy", []) for name, problem in history[-1].items()}
    assert seen(encoder.message(made.snapshot("it"))) == expected


def test_a_list_that_the_kubelet_could_not_receive_is_cut_at_the_same_place_each_time() -> None:
    made, encoder = inventory(*(device(f"d{n:03}") for n in range(100))), Encoder(limit=500)
    message = encoder.message(made.snapshot("it"))
    assert message.ByteSize() <= 500
    kept = sorted(seen(message))
    assert kept == [f"d{n:03}" for n in range(len(kept))]
    made.apply({device("d000").sys_path: None})
    assert sorted(seen(encoder.message(made.snapshot("it")))) == [f"d{n:03}" for n in range(1, len(kept) + 1)]
