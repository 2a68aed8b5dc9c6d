"""Selectors: which device meets which conditions, and the reason where it does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.device import config
from plugins.device.hardware import Device, Wanted
from plugins.device.selectors import KeyedError, Selector, merge
from tests.unit.device.kit import device, pci, usb_tty

CARD = device(
    "renderD128",
    subsystem="drm",
    devtype="drm_minor",
    driver="",
    node="/dev/dri/renderD128",
    links=("/dev/dri/by-path/pci-0000:21:00.0-render",),
    tags=frozenset({"seat", "uaccess"}),
    properties={"ID_PATH": "pci-0000:21:00.0"},
    attributes={"dev": "226:128", "index": "3"},
    parents=(pci("0000:21:00.0", 1, vendor="0x1002"),),
)
FTDI, CH340 = usb_tty("ttyUSB0", "2", serial="A10K3D"), usb_tty("ttyUSB1", "3", vendor="1a86")


def selector(**table: Any) -> Selector:
    return Selector(msgspec.convert(table, config.Selector))


@pytest.mark.parametrize(
    "table",
    [
        {"subsystem": "drm"},
        {"subsystem": ["drm", "accel"], "devtype": "drm_minor"},
        {"name": "renderD*"},
        {"node": "/dev/dri/*"},
        {"node": "/dev/dri/by-path/*-render"},
        {"tags": "uaccess"},
        {"properties": {"ID_PATH": "pci-*"}},
        {"attributes": {"index": {"min": 1, "max": 3}}},
        {"attributes": {"no-such": {"exists": False}}},
        {"driver": {"exists": False}},
        {"parent": {"pci": {"attributes": {"vendor": "0x1002", "numa_node": 1}}}},
        {"parent": {"*": {"name": "0000:21:00.0"}}},
    ],
)
def test_conditions_that_hold(table: dict[str, Any]) -> None:
    made = selector(**table)
    assert made.selects(CARD)
    assert made.why_not(CARD) == ""


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"subsystem": "tty"}, "subsystem is 'drm', wanted 'tty'"),
        ({"subsystem": "drm", "name": ["card*", "x"]}, "name is 'renderD128', wanted one of 'card*', 'x'"),
        ({"driver": "amdgpu"}, "driver is not there, wanted 'amdgpu'"),
        ({"tags": {"not": "seat"}}, "tags is 'seat', 'uaccess', wanted not 'seat'"),
        ({"properties": {"ID_BUS": "usb"}}, "property ID_BUS is not there, wanted 'usb'"),
        ({"parent": {"usb": {"name": "*"}}}, "there is no usb parent"),
        (
            {"parent": {"pci": {"attributes": {"vendor": "0x10de"}}}},
            "pci parent: attribute vendor is '0x1002', wanted '0x10de'",
        ),
    ],
)
def test_the_reason_names_what_was_found_and_what_was_wanted(table: dict[str, Any], why: str) -> None:
    made = selector(**table)
    assert not made.selects(CARD)
    assert made.why_not(CARD) == why


def test_all_conditions_on_a_parent_are_about_one_and_the_same() -> None:
    """The device has the vendor, the hub above it has the serial number: no parent has both."""
    table = {"parent": {"usb": {"attributes": {"idVendor": "1a86", "serial": {"exists": True}}}}}
    assert not selector(**table).selects(CH340)


def test_a_denial_is_not_met_by_some_other_parent() -> None:
    """The hub is of another vendor too, and is no reason to take the device."""
    table = {"parent": {"usb": {"attributes": {"idVendor": {"not": "0403"}}}}}
    assert not selector(**table).selects(FTDI)
    assert selector(**table).selects(CH340)
    assert "wanted not '0403'" in selector(**table).why_not(FTDI)


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ({}, "", "every device"),
        ({"name": "a[b"}, "name", "not closed"),
        ({"attributes": {"size": {}}}, "attributes.size", "empty"),
        ({"attributes": {"../../secret": "x"}}, "attributes.../../secret", "below"),
        ({"attributes": {"/etc/passwd": "x"}}, "attributes./etc/passwd", "below"),
        ({"parent": {"usb": {}}}, "parent.usb", "no condition"),
        ({"parent": {"usb": {"properties": {"X": {"regex": "("}}}}}, "parent.usb.properties.X", "not valid"),
    ],
)
def test_a_selector_that_cannot_be_used_names_its_key(table: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(KeyedError, match=said) as raised:
        selector(**table)
    assert raised.value.key == key


def test_a_source_is_asked_for_no_more_than_the_rules_look_at() -> None:
    wanted = merge(
        [
            selector(subsystem=["a", "b"], attributes={"x": "1"}).wanted,
            selector(subsystem="c", parent={"usb": {"properties": {"P": "1"}}}).wanted,
        ]
    )
    assert wanted == Wanted(frozenset("abc"), frozenset({"usb"}), frozenset({"P"}), frozenset({"x"}))
    assert selector(subsystem="a*").wanted.subsystems is None
    assert selector(name="a").wanted.subsystems is None
    assert selector(subsystem="a", parent={"*": {"name": "x"}}).wanted.parents is None


@given(
    st.sampled_from(["misc", "block", "tty"]),
    st.sampled_from(["kvm", "loop0", "ttyS0"]),
    st.dictionaries(
        st.sampled_from(["subsystem", "name", "driver"]), st.sampled_from(["misc", "kvm", "loop*", "x"]), min_size=1
    ),
)
def test_a_device_is_selected_exactly_if_there_is_no_reason_against_it(
    subsystem: str, name: str, table: dict[str, str]
) -> None:
    found: Device = device(name, subsystem=subsystem)
    made = selector(**table)
    assert made.selects(found) == (made.why_not(found) == "")
