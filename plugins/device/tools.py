"""Commands for people: what would be offered, and which device falls to which rule, and why another one does not.

They look at the machine by themselves, as a daemon with the same configuration would at this moment; none has to run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from plugins.core import cli, log
from plugins.device import patterns, resources
from plugins.device.hardware import Device, Wanted

if TYPE_CHECKING:
    from plugins.device.config import DeviceConfig
    from plugins.device.inventory import Inventory, Snapshot
    from plugins.device.resources import Rule


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add list and match to the command line of `nodeplug device`."""
    listing = commands.add_parser("list", help="the devices of each resource, as the kubelet would see them")
    listing.set_defaults(run=_list)
    match = commands.add_parser("match", help="which device falls to which rule, and why not")
    match.add_argument("device", nargs="?", metavar="DEVICE", help="only these: a node, kernel name or sysfs path; * ?")
    match.set_defaults(run=_match)
    for command in (listing, match):
        cli.add_config_options(command)
        command.add_argument("--output", choices=("table", "json"), default="table")


def look(rules: Sequence[Rule], wanted: Wanted | None = None) -> tuple[Inventory, list[Device]]:
    """The inventory of this moment, and all devices that were looked at, in the order of their sysfs paths.

    Raises:
        ConfigError: libudev is not there.
    """
    from plugins.device.inventory import Inventory
    from plugins.device.sources.reader import Reader, context

    devices = sorted(Reader(context(), wanted or resources.wanted(rules)).all(), key=lambda d: d.sys_path)
    inventory = Inventory(rules)
    inventory.replace(devices)
    return inventory, devices


def summary(snapshot: Snapshot) -> str:
    """One line about one resource."""
    rule = snapshot.rule
    devices = {unit.device.sys_path for unit in snapshot.units.values()}
    unusable = {unit.device.sys_path for unit in snapshot.units.values() if unit.problem}
    shares = f", {rule.shares} shares each" if rule.shares > 1 else ""
    problem = f", {len(unusable)} of them not usable" if unusable else ""
    way = "kubelet.sock" if rule.style == "kubelet" else "plugins_registry"
    return f"{rule.full_name}: devices now: {len(devices)}{shares}{problem}; registered by {way}"


def _list(args: argparse.Namespace) -> int:
    rules = resources.read(_config(args))
    log.setup("error")
    inventory, _ = look(rules)
    rows = [row for rule in rules for row in _units(inventory.snapshot(rule.name))]
    _print(args.output, rows, ("resource", "id", "health", "node", "numbers", "numa", "problem"))
    return 0


def _units(snapshot: Snapshot) -> Iterable[dict[str, Any]]:
    for unit in sorted(snapshot.units.values(), key=lambda u: u.id):
        node = unit.device.node
        yield {
            "resource": snapshot.rule.full_name,
            "id": unit.id,
            "health": "Unhealthy" if unit.problem else "Healthy",
            "node": node and node.path,
            "numbers": node and f"{node.kind} {node.major}:{node.minor}",
            "numa": unit.numa,
            "problem": unit.problem,
        }


def _match(args: argparse.Namespace) -> int:
    rules = resources.read(_config(args))
    wanted = resources.wanted(rules)
    if args.device is not None:  # asked for by name: it may be in a subsystem that no rule looks at
        wanted = Wanted(None, None, wanted.properties, wanted.attributes)
    log.setup("error")
    inventory, devices = look(rules, wanted)
    ids: dict[str, str] = {}  # of several shares the first one's stands for all
    for rule in rules:
        for unit in inventory.snapshot(rule.name).units.values():
            ids.setdefault(unit.device.sys_path, unit.id)
    rows = [_verdict(device, rules, ids) for device in devices if _named(device, args.device)]
    if args.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        table = [{**row, "node": row["node"] or row["sys_path"], "why_not": _reasons(row, args.device)} for row in rows]
        _print("table", table, ("node", "subsystem", "resource", "id", "why_not"))
    return 0 if rows or args.device is None else 1


def _verdict(device: Device, rules: Sequence[Rule], ids: dict[str, str]) -> dict[str, Any]:
    rule = resources.first(rules, device)
    why_not = {other.name: _reason(other, rule, device) for other in rules if other is not rule}
    if rule is not None and device.node is None:
        why_not[rule.name] = "selected, but there is no device node to hand out"
    return {
        "node": device.node and device.node.path,
        "sys_path": device.sys_path,
        "subsystem": device.subsystem,
        "resource": rule.name if rule is not None and device.node is not None else None,
        "id": ids.get(device.sys_path),
        "problem": device.problem,
        "why_not": why_not,
    }


def _reason(rule: Rule, owner: Rule | None, device: Device) -> str:
    reason = rule.why_not(device)
    return reason or f"{owner.name if owner else 'another rule'} comes first"


def _reasons(row: dict[str, Any], asked: str | None) -> str:
    """In one line. Rules for other subsystems say nothing new, unless the device was asked for by name."""
    all_reasons = {rule: str(reason) for rule, reason in row["why_not"].items()}
    told = {r: text for r, text in all_reasons.items() if asked is not None or not text.startswith("subsystem is")}
    if row["resource"] is None and not told:
        return f"no rule looks at subsystem {row['subsystem']!r}"
    return "; ".join(f"{rule}: {text}" for rule, text in told.items())


def _named(device: Device, pattern: str | None) -> bool:
    if pattern is None:
        return True
    names = [device.sys_path, device.sys_name, *device.links, *([device.node.path] if device.node else [])]
    return patterns.Pattern(pattern).holds(names)


def _config(args: argparse.Namespace) -> DeviceConfig:
    from plugins.device.wiring import SPEC

    return cli.load_config(SPEC, args)


def _print(output: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    if output == "json":
        print(json.dumps(rows, indent=2))
        return
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [["-" if row[c] is None or row[c] == "" else str(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
