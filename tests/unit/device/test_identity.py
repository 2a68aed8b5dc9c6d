"""Device ids: made of what the hardware says, the same after a replug and a reboot, never the same for two."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.device.hardware import Device, KernelObject
from plugins.device.identity import MAX_LENGTH, Identity, Names, identify, numa_node
from tests.unit.device.kit import device, pci, usb_tty

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
GPU = pci("0000:21:00.0", 1)
NVME = KernelObject("/sys/devices/pci/nvme0", "nvme", "", "nvme0", attributes={"serial": "S4XYZ  "})


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (device("kvm"), "kvm"),
        (device("tun", node="/dev/net/tun"), "net-tun"),
        (device("loop70000", subsystem="block"), "loop70000"),
        (device("renderD128", subsystem="drm", parents=(GPU,)), "pci-0000-21-00-0-renderd"),
        (device("card1", subsystem="drm", parents=(GPU,)), "pci-0000-21-00-0-card"),
        (device("vdb", subsystem="block", parents=(GPU,)), "pci-0000-21-00-0-block"),
        (usb_tty("ttyUSB0", "2", serial="A10K3D"), "usb-0403-6001-a10k3d-if00-port0-ttyusb"),
        (usb_tty("ttyUSB0", "2.4", vendor="1a86"), "usb-0000-00-14-0-2-4-if00-port0-ttyusb"),
        (
            device("nvme0n1", subsystem="block", attributes={"nsid": "1"}, parents=(NVME, GPU)),
            "nvme-s4xyz-ns1-block",
        ),
        (device("nvme0n1", subsystem="block", attributes={"wwid": "eui.0025"}, parents=(NVME, GPU)), "block-eui-0025"),
        (
            device("video1", subsystem="video4linux", attributes={"index": "1"}, parents=(GPU,)),
            "pci-0000-21-00-0-index1-video",
        ),
        (device("lo", subsystem="net", number=None), "net-lo"),
    ],
)
def test_names_by_what_the_hardware_says(found: Device, name: str) -> None:
    assert identify(found).name == name


def test_a_serial_number_survives_another_port_and_another_number_of_the_kernel() -> None:
    assert (
        identify(usb_tty("ttyUSB0", "2", serial="A1B2")).name == identify(usb_tty("ttyUSB7", "4.1", serial="A1B2")).name
    )


def test_without_one_the_port_counts_and_not_the_number_of_the_kernel() -> None:
    assert identify(usb_tty("ttyUSB0", "2")).name == identify(usb_tty("ttyUSB7", "2")).name
    assert identify(usb_tty("ttyUSB0", "2")).name != identify(usb_tty("ttyUSB0", "3")).name


@pytest.mark.parametrize("serial", ["", "0", "00000000", "FFFF", "    ", "....", "00:00:00"])
def test_a_serial_number_that_says_nothing_is_none(serial: str) -> None:
    assert identify(usb_tty("ttyUSB0", "2", serial=serial)).name == identify(usb_tty("ttyUSB0", "2")).name


@given(st.text(max_size=200), st.text(max_size=80))
def test_every_id_is_a_dns_label_of_bounded_length(serial: str, name: str) -> None:
    for found in (usb_tty("ttyUSB0", "2", serial=serial), device(name or "x", number=None)):
        identity = identify(found)
        assert LABEL.fullmatch(identity.name)
        assert len(identity.name) <= MAX_LENGTH


def test_long_names_stay_apart() -> None:
    one, two = (identify(usb_tty("ttyUSB0", "2", serial="S" * 80 + end)).name for end in "12")
    assert one != two


def test_the_numa_node_is_that_of_the_nearest_parent_that_has_one() -> None:
    assert numa_node(device("card0", parents=(pci("0000:21:00.0", -1), pci("0000:20:00.0", 1)))) == 1
    assert numa_node(device("card0", parents=(pci("0000:21:00.0", -1),))) is None
    assert numa_node(device("kvm")) is None


A, B, C = (Identity("usb-1", place) for place in ("port 1", "port 2", "port 3"))


def test_of_two_with_one_identity_the_first_keeps_the_name() -> None:
    names = Names()
    assert names.add("/a", A) == "usb-1"
    second = names.add("/b", B)
    assert second.startswith("usb-1-")
    assert names.add("/a", A) == "usb-1"
    assert LABEL.fullmatch(second)


def test_both_have_their_ids_back_after_a_replug_in_the_other_order() -> None:
    names = Names()
    first, second = names.add("/a", A), names.add("/b", B)
    names.remove("/a")
    names.remove("/b")
    assert names.add("/b2", B) == second
    third = names.add("/c", C)
    assert third not in (first, second)
    assert names.add("/a2", A) == first


def test_a_name_is_free_again_when_its_only_device_is_gone() -> None:
    names = Names()
    names.add("/a", A)
    names.remove("/a")
    assert names.add("/b", B) == "usb-1"


def test_the_same_identity_and_place_still_gives_two_ids() -> None:
    names = Names()
    assert names.add("/a", A) != names.add("/b", A)


operations = st.lists(
    st.tuples(st.booleans(), st.sampled_from("abcd"), st.sampled_from(["n", "n-m"]), st.sampled_from(["p", "q"])),
    max_size=30,
)


@given(operations)
@example([(True, path, "n-m", place) for path, place in ("aq", "cq", "bq", "ap", "bp")])  # every wish is reserved
def test_no_two_devices_ever_have_one_id_and_none_changes_while_it_is_there(
    steps: list[tuple[bool, str, str, str]],
) -> None:
    names, present = Names(), dict[str, tuple[Identity, str]]()
    for add, path, name, place in steps:
        if not add:
            names.remove(path)
            present.pop(path, None)
            continue
        identity = Identity(name, place)
        given_id = names.add(path, identity)
        if path in present and present[path][0] == identity:
            assert given_id == present[path][1]
        present[path] = (identity, given_id)
        ids = [known for _, known in present.values()]
        assert len(ids) == len(set(ids))
