"""The inventory: devices and rules become lists, change by change, with the same result as all at once."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from plugins.device.hardware import Device
from plugins.device.inventory import Inventory, Snapshot
from tests.unit.device.kit import device, pci, rules, usb_tty

RULES = rules(
    {"name": "loop", "select": [{"subsystem": "block", "name": "loop*"}], "exclude": [{"name": "loop1"}]},
    {"name": "shared", "select": [{"name": "kvm"}], "shares": 3},
    {"name": "rest", "select": [{"subsystem": ["misc", "block"]}], "numa": False},
)


def view(inventory: Inventory) -> dict[str, dict[str, tuple[str, str]]]:
    return {
        rule.name: {i: (u.device.sys_path, u.problem) for i, u in inventory.snapshot(rule.name).units.items()}
        for rule in RULES
    }


def test_each_device_goes_to_the_first_rule_that_has_it() -> None:
    inventory = Inventory(RULES)
    loops = [device(f"loop{n}", subsystem="block", number=(7, n)) for n in range(3)]
    inventory.replace([*loops, device("kvm"), device("fuse"), device("eth0", subsystem="net", number=None)])
    assert {name: sorted(units) for name, units in view(inventory).items()} == {
        "loop": ["loop0", "loop2"],
        "shared": ["kvm-s0", "kvm-s1", "kvm-s2"],
        "rest": ["fuse", "loop1"],
    }


def test_a_device_without_a_node_is_not_offered() -> None:
    inventory = Inventory(RULES)
    inventory.replace([device("thing", number=None)])
    assert inventory.snapshot("rest").units == {}


def test_a_device_whose_node_cannot_be_used_is_there_and_unhealthy() -> None:
    inventory = Inventory(RULES)
    inventory.replace([device("fuse", problem="/dev/fuse is not there")])
    assert inventory.snapshot("rest").units["fuse"].problem == "/dev/fuse is not there"


def test_all_shares_of_a_device_change_together() -> None:
    inventory = Inventory(RULES)
    inventory.replace([device("kvm")])
    inventory.apply({device("kvm").sys_path: device("kvm", problem="gone")})
    assert [u.problem for u in inventory.snapshot("shared").units.values()] == ["gone"] * 3
    inventory.apply({device("kvm").sys_path: None})
    assert inventory.snapshot("shared").units == {}


def test_a_list_is_published_only_when_it_changed() -> None:
    inventory = Inventory(RULES)
    inventory.replace([device("fuse")])
    version = inventory.snapshot("rest").version
    inventory.replace([device("fuse")])
    inventory.apply({device("fuse").sys_path: device("fuse")})
    inventory.apply({"/sys/devices/unknown": None})
    assert inventory.snapshot("rest").version == version
    assert inventory.snapshot("loop").version == 0


def test_what_did_not_change_stays_the_same_object() -> None:
    """Nothing flaps when everything is listed again, and what is kept for each unit stays good."""
    inventory = Inventory(RULES)
    inventory.replace([device("fuse"), device("vga")])
    before = inventory.snapshot("rest").units["fuse"]
    inventory.replace([device("fuse"), device("vga2")])
    assert inventory.snapshot("rest").units["fuse"] is before
    assert inventory.snapshot("rest").delta.keys() == {"vga", "vga2"}


def test_a_reader_keeps_the_list_that_it_took() -> None:
    inventory = Inventory(RULES)
    inventory.replace([device("fuse")])
    taken = inventory.snapshot("rest")
    inventory.apply({device("fuse").sys_path: None})
    assert list(taken.units) == ["fuse"]


def test_a_device_that_is_plugged_in_elsewhere_in_one_step_keeps_its_id() -> None:
    (serial,) = rules({"name": "serial", "select": [{"subsystem": "tty"}]})
    inventory = Inventory([serial])
    old, new = usb_tty("ttyUSB0", "2", serial="A1"), usb_tty("ttyUSB1", "3", serial="A1")
    inventory.replace([old])
    (given_id,) = inventory.snapshot("serial").units
    inventory.apply({new.sys_path: new, old.sys_path: None})
    assert list(inventory.snapshot("serial").units) == [given_id]
    assert inventory.snapshot("serial").units[given_id].device is new


def test_a_change_may_move_a_device_to_another_resource() -> None:
    first, second = rules(
        {"name": "ro", "select": [{"attributes": {"ro": "1"}}]}, {"name": "rw", "select": [{"attributes": {"ro": "0"}}]}
    )
    inventory = Inventory([first, second])
    found = device("sda", subsystem="block", attributes={"ro": "1"})
    inventory.replace([found])
    inventory.apply({found.sys_path: dataclasses.replace(found, attributes={"ro": "0"})})
    assert (list(inventory.snapshot("ro").units), list(inventory.snapshot("rw").units)) == ([], ["sda"])


def test_numa_nodes_are_told_unless_turned_off() -> None:
    on, off = rules(
        {"name": "on", "select": [{"subsystem": "drm"}]},
        {"name": "off", "select": [{"subsystem": "accel"}], "numa": False},
    )
    inventory = Inventory([on, off])
    parent = (pci("0000:21:00.0", 1),)
    inventory.replace(
        [device("card0", subsystem="drm", parents=parent), device("a", subsystem="accel", parents=parent)]
    )
    assert [u.numa for u in inventory.snapshot("on").units.values()] == [1]
    assert [u.numa for u in inventory.snapshot("off").units.values()] == [None]


NAMES = ["kvm", "fuse", "loop0", "loop1", "loop2"]
states = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "not there"]))


def devices(state: dict[str, str]) -> list[Device]:
    return [
        device(name, subsystem="block" if name.startswith("loop") else "misc", problem=problem)
        for name, problem in state.items()
    ]


@given(st.lists(states, min_size=1, max_size=8), st.booleans())
def test_changes_one_by_one_lead_where_a_fresh_look_leads(history: list[dict[str, str]], relist: bool) -> None:
    inventory = Inventory(RULES)
    known: dict[str, Device] = {}
    mirrors = {rule.name: Mirror(inventory.snapshot(rule.name)) for rule in RULES}
    for state in history:
        found = {d.sys_path: d for d in devices(state)}
        if relist:
            inventory.replace(found.values())
        else:
            inventory.apply({**dict.fromkeys(known, None), **found})
        known = found
        for rule in RULES:
            mirrors[rule.name].follow(inventory.snapshot(rule.name))
    fresh = Inventory(RULES)
    fresh.replace(devices(history[-1]))
    assert view(inventory) == view(fresh)


class Mirror:
    """Follows a list by its deltas alone, as the encoder does."""

    def __init__(self, start: Snapshot) -> None:
        self.version, self.units = start.version, dict(start.units)

    def follow(self, snapshot: Snapshot) -> None:
        if snapshot.version == self.version:
            return
        assert snapshot.version == self.version + 1
        for unit_id, unit in snapshot.delta.items():
            self.units.pop(unit_id, None)
            if unit is not None:
                self.units[unit_id] = unit
        self.version = snapshot.version
        assert self.units == dict(snapshot.units)
