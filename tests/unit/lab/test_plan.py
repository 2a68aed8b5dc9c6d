"""Pure parts of the lab's kubelet: what to register, which devices to give, which names are valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.lab import paths
from plugins.lab.allocation import choose
from plugins.lab.csinode import highest
from plugins.lab.devicestate import Amount, DeviceInfo, DeviceState, Held
from plugins.lab.errors import AdmissionError, LabError
from plugins.lab.names import is_extended_resource, is_fully_qualified_domain, is_qualified_name
from plugins.lab.reconciler import Registered, plan
from plugins.lab.timings import KubeletTimings

A, B = Path("/r/a.sock"), Path("/r/b.sock")


def registered(path: Path, identity: int) -> Registered:
    return Registered(path, identity, "CSIPlugin", path.stem, "")


def test_a_new_socket_is_registered() -> None:
    assert plan({A: 1}, {}) == ([], [A])


def test_a_socket_that_is_gone_is_unregistered() -> None:
    assert plan({}, {A: registered(A, 1)}) == ([registered(A, 1)], [])


def test_a_socket_made_anew_is_unregistered_first_and_registered_in_the_next_round() -> None:
    actual = {A: registered(A, 1), B: registered(B, 2)}
    assert plan({A: 3, B: 2}, actual) == ([registered(A, 1)], [])
    assert plan({A: 3, B: 2}, {B: registered(B, 2)}) == ([], [A])


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert plan({A: 1}, {A: registered(A, 1)}) == ([], [])


DEVICES = {i: DeviceInfo(i, True, nodes) for i, nodes in {"a": (0,), "b": (0, 1), "c": (1,), "d": ()}.items()}
ALL = frozenset(DEVICES)


class Asked:
    """Records what the plugin is asked, and answers."""

    def __init__(self, *wish: str) -> None:
        self.wish = frozenset(wish)
        self.questions: list[tuple[frozenset[str], frozenset[str], int]] = []

    def __call__(self, available: frozenset[str], must: frozenset[str], size: int) -> frozenset[str]:
        self.questions.append((available, must, size))
        return self.wish


def test_without_affinity_the_plugin_is_asked_even_if_there_is_no_choice() -> None:
    asked = Asked("a")
    assert choose("r", 4, ALL, DEVICES, None, asked) == ALL
    assert asked.questions == [(ALL, frozenset(), 4)]


def test_aligned_devices_come_first_and_need_no_question_when_all_are_taken() -> None:
    asked = Asked("d")
    assert choose("r", 2, ALL, DEVICES, frozenset({0}), asked) == {"a", "b"}
    assert asked.questions == []


def test_the_plugin_chooses_among_the_aligned_ones() -> None:
    asked = Asked("b", "c")
    assert choose("r", 1, ALL, DEVICES, frozenset({0}), asked) == {"b"}
    assert asked.questions == [(frozenset({"a", "b"}), frozenset(), 1)]


def test_what_alignment_took_must_be_included_in_the_plugins_answer() -> None:
    asked = Asked("a", "b", "d")
    assert choose("r", 3, ALL, DEVICES, frozenset({0}), asked) == {"a", "b", "d"}
    assert asked.questions == [(ALL, frozenset({"a", "b"}), 3)]


def test_devices_without_a_node_come_last() -> None:
    assert choose("r", 3, ALL, DEVICES, frozenset({0}), Asked()) == {"a", "b", "c"}


def test_too_few_is_an_admission_error() -> None:
    with pytest.raises(AdmissionError, match="Requested: 5, Available: 4"):
        choose("r", 5, ALL, DEVICES, None, Asked())


@given(st.integers(1, 4), st.frozensets(st.sampled_from("abcdxyz")), st.none() | st.frozensets(st.integers(0, 2)))
def test_whatever_the_plugin_wishes_the_right_number_of_available_devices_is_given(
    needed: int, wish: frozenset[str], affinity: frozenset[int] | None
) -> None:
    chosen = choose("r", needed, ALL, DEVICES, affinity, Asked(*wish))
    assert len(chosen) == needed
    assert chosen <= ALL


def test_health_counts_in_allocatable_only() -> None:
    state = DeviceState(grace=60)
    state.replace("r", [DeviceInfo("a", True), DeviceInfo("b", False)])
    assert state.amounts() == {"r": Amount(2, 1)}
    state.disconnected("r")
    assert state.amounts() == {"r": Amount(2, 0)}
    state.connected("r")
    assert state.next_expiry() is None


def test_a_resource_leaves_when_the_grace_period_is_over() -> None:
    state = DeviceState(grace=0)
    state.replace("r", [DeviceInfo("a", True)])
    state.disconnected("r")
    assert state.amounts() == {}


def test_a_pod_that_ended_holds_nothing() -> None:
    state = DeviceState(grace=60)
    state.reserve("r", {"a"})
    assert state.in_use("r") == {"a"}
    state.hold(("pod", "c"), "r", Held(frozenset({"a"}), b""))
    assert state.in_use("r") == {"a"}
    state.free("pod")
    assert state.in_use("r") == frozenset()


@pytest.mark.parametrize("name", ["example.org/gpu", "a.b/C-d_e.f", "x/y"])
def test_extended_resource_names(name: str) -> None:
    assert is_extended_resource(name)


@pytest.mark.parametrize(
    "name",
    [
        "gpu",
        "kubernetes.io/x",
        "a.kubernetes.io/x",
        "requests.x/y",
        "-a/b",
        "a/-b",
        "a/b/c",
        "a/" + "b" * 64,
        "a" * 250 + "/b",
        "/b",
        "a/",
    ],
)
def test_what_is_no_extended_resource_name(name: str) -> None:
    assert not is_extended_resource(name)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a.b", True),
        ("a.b.", True),
        ("a", False),
        ("A.b", False),
        ("", False),
        ("a..b", False),
        ("a" * 64 + ".b", False),
        ("a_b.c", False),
    ],
)
def test_fully_qualified_domains(text: str, good: bool) -> None:
    assert is_fully_qualified_domain(text) is good


def test_qualified_names() -> None:
    assert is_qualified_name("topology.example.org/node")
    assert is_qualified_name("name")
    assert not is_qualified_name("/name")


@pytest.mark.parametrize(
    ("versions", "best"), [(("1.0.0",), (1, 0, 0)), (("0.9.0", "1.2.3", "2.0.0"), (1, 2, 3)), (("v1.1", "x"), (1, 1))]
)
def test_the_highest_version_below_two_counts(versions: tuple[str, ...], best: tuple[int, ...]) -> None:
    assert highest(versions) == best


@pytest.mark.parametrize("versions", [(), ("2.0.0",), ("0.3.0",), ("one",)])
def test_a_driver_needs_a_version_one(versions: tuple[str, ...]) -> None:
    with pytest.raises(LabError):
        highest(versions)


def test_mountinfo_writes_blanks_in_octal() -> None:
    assert paths._unescaped(r"/a\040b\134c\011") == "/a b\\c\t"


def test_timings_can_be_made_shorter() -> None:
    assert KubeletTimings().scaled(0.01).stop_grace == 3.0
