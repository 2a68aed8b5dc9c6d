"""Allocation: what a container gets, and which requests are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.core.errors import FailedPrecondition, InvalidArgument, NodeplugError
from plugins.device import allocation
from plugins.device.hardware import Device, Node
from plugins.device.inventory import Inventory, Snapshot
from tests.unit.device.kit import device, rules


def snapshot(*devices: Device, **more: object) -> Snapshot:
    made = rules({"name": "usb.tty-1", "select": [{"subsystem": "misc"}], "permissions": "rwm", **more})
    inventory = Inventory(made)
    inventory.replace(devices)
    return inventory.snapshot("usb.tty-1")


def fine(node: Node) -> str:
    return ""


TWO = snapshot(device("a", number=(10, 1)), device("b", number=(10, 2)))


def test_a_container_gets_its_nodes_and_learns_their_paths() -> None:
    (grant,) = allocation.plan([["b", "a"]], TWO, fine)
    assert [node.path for node in grant.nodes] == ["/dev/b", "/dev/a"]
    assert grant.permissions == "rwm"
    assert grant.env == ("NODEPLUG_DEVICES_USB_TTY_1", "/dev/b,/dev/a")


def test_two_shares_of_a_device_are_one_node() -> None:
    (grant,) = allocation.plan([["a-s0", "a-s2"]], snapshot(device("a"), shares=3), fine)
    assert [node.path for node in grant.nodes] == ["/dev/a"]


@pytest.mark.parametrize(
    ("containers", "said"),
    [
        ([["a", "c"]], "nodeplug.internal/usb.tty-1: there is no device 'c'"),
        ([["a", "a"]], "nodeplug.internal/usb.tty-1: device 'a' is asked for twice"),
        ([["a"], ["a"]], "nodeplug.internal/usb.tty-1: device 'a' is asked for twice"),
        ([["a"], []], "asks for no device"),
        ([[""]], "there is no device ''"),
    ],
)
def test_a_request_that_is_wrong_names_the_device_and_the_resource(containers: list[list[str]], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        allocation.plan(containers, TWO, fine)


def test_an_unhealthy_device_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="device 'a' cannot be used: /dev/a is not there"):
        allocation.plan([["a"]], snapshot(device("a", problem="/dev/a is not there")), fine)


def test_a_node_that_is_something_else_by_now_is_refused() -> None:
    with pytest.raises(allocation.Unusable, match="device 'a' cannot be used: replaced") as raised:
        allocation.plan([["a"]], TWO, lambda node: "replaced")
    assert raised.value.device.sys_name == "a"


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "", "a-s0", "\0"]), max_size=4), max_size=3))
def test_every_request_is_granted_in_full_or_refused_with_a_reason(containers: list[list[str]]) -> None:
    flat = [unit_id for ids in containers for unit_id in ids]
    good = all(containers) and len(set(flat)) == len(flat) and set(flat) <= {"a", "b"}
    try:
        grants = allocation.plan(containers, TWO, fine)
    except NodeplugError as error:
        assert not good
        assert "nodeplug.internal/usb.tty-1" in error.message
    else:
        assert good
        assert [len(grant.nodes) for grant in grants] == [len(ids) for ids in containers]
