"""The configured resources, read and checked: every mistake is said with the resource, the key, and what to do."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from plugins.core.errors import ConfigError
from plugins.device import config
from plugins.device.config import DeviceConfig, Style
from plugins.device.hardware import Device, Wanted
from plugins.device.selectors import KeyedError, Selector, merge

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"(?=.{1,243}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True)
class Rule:
    """One resource, ready to be asked about devices.

    full_name: what pods ask for: "domain/name".
    permissions: letters of r, w, m for the cgroup of the container.
    """

    name: str
    full_name: str
    select: tuple[Selector, ...]
    exclude: tuple[Selector, ...] = ()
    shares: int = 1
    permissions: str = "rw"
    preference: str = "packed"
    numa: bool = True
    style: Style = "kubelet"

    def selects(self, device: Device) -> bool:
        """Whether the device counts for this resource, if no earlier one has it."""
        return any(s.selects(device) for s in self.select) and not any(s.selects(device) for s in self.exclude)

    def why_not(self, device: Device) -> str:
        """Why it does not; empty if it does."""
        reasons = [s.why_not(device) for s in self.select]
        if all(reasons):
            return "; ".join(dict.fromkeys(reasons))
        excluded = next((number for number, s in enumerate(self.exclude) if s.selects(device)), None)
        return "" if excluded is None else f"exclude[{excluded}] takes it out"


def first(rules: Sequence[Rule], device: Device) -> Rule | None:
    """The rule that has the device: the first one in the order of the configuration."""
    return next((rule for rule in rules if rule.selects(device)), None)


def wanted(rules: Sequence[Rule]) -> Wanted:
    """What a source has to look at for these rules."""
    chosen = merge(selector.wanted for rule in rules for selector in rule.select)
    looked_at = merge(selector.wanted for rule in rules for selector in (*rule.select, *rule.exclude))
    return dataclasses.replace(looked_at, subsystems=chosen.subsystems)


def read(settings: DeviceConfig) -> tuple[Rule, ...]:
    """The rules of a configuration.

    Raises:
        ConfigError: names the resource, the key, and for an unknown key the nearest known one.
    """
    _check_domain(settings.domain)
    rules = [_rule(table, number, settings) for number, table in enumerate(settings.resources or ())]
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"resource {name!r} is there {names.count(name)} times; give each its own name")
    return tuple(rules)


def check_socket(settings: DeviceConfig) -> None:
    """Raises ConfigError where one socket is configured for what needs several."""
    if settings.socket is not None:
        raise ConfigError(
            "socket cannot be set for devices: the contract wants one socket for each resource, in the kubelet's own "
            "folder; set kubelet_dir, or leave it out"
        )


def _rule(table: Mapping[str, Any], number: int, settings: DeviceConfig) -> Rule:
    name = table.get("name")
    where = f"resource {name!r}" if isinstance(name, str) else f"resource number {number + 1}"
    _check_keys(table, msgspec.inspect.type_info(config.Resource), where, "")
    try:
        resource = msgspec.convert(table, config.Resource, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('`$.', '`')}") from error
    if not _NAME.fullmatch(resource.name):
        raise ConfigError(f"{where}: name: up to 63 of letters, digits, '-', '_', '.', no sign at either end")
    if not resource.select:
        raise ConfigError(f"{where}: select is missing: say which devices it has")
    return Rule(
        name=resource.name,
        full_name=f"{settings.domain}/{resource.name}",
        select=_selectors(where, "select", resource.select),
        exclude=_selectors(where, "exclude", resource.exclude),
        shares=resource.shares,
        permissions=resource.permissions,
        preference=resource.preference,
        numa=resource.numa,
        style=resource.registration or settings.registration,
    )


def _selectors(where: str, key: str, tables: Sequence[config.Selector]) -> tuple[Selector, ...]:
    selectors = []
    for number, table in enumerate(tables):
        try:
            selectors.append(Selector(table))
        except KeyedError as error:
            path = f"{key}[{number}]" + (f".{error.key}" if error.key else "")
            raise ConfigError(f"{where}: {path}: {error.reason}") from error
    return tuple(selectors)


def _check_domain(domain: str) -> None:
    """What the kubelet takes as an extended resource: a DNS name, not Kubernetes' own, with "requests." before it."""
    if not _DOMAIN.fullmatch(domain) or any(len(label) > 63 for label in domain.split(".")):
        raise ConfigError(f"domain {domain!r} is not a DNS name in lower case")
    if domain == "kubernetes.io" or domain.endswith(".kubernetes.io") or domain.startswith("requests."):
        raise ConfigError(f"domain {domain!r} belongs to Kubernetes; the kubelet refuses it: take one that you own")


def _check_keys(data: object, kind: msgspec.inspect.Type, where: str, path: str) -> None:
    """Name an unknown key together with the nearest known one, at any depth."""
    for inner in _alternatives(kind):
        if isinstance(data, dict) and isinstance(inner, msgspec.inspect.StructType):
            fields = {field.encode_name: field.type for field in inner.fields}
            for key, value in data.items():
                if key not in fields:
                    raise ConfigError(_unknown(where, path + key, key, list(fields)))
                _check_keys(value, fields[key], where, f"{path}{key}.")
        elif isinstance(data, dict) and isinstance(inner, msgspec.inspect.DictType):
            for key, value in data.items():
                _check_keys(value, inner.value_type, where, f"{path}{key}.")
        elif isinstance(data, (list, tuple)) and isinstance(inner, msgspec.inspect.VarTupleType):
            for number, value in enumerate(data):
                _check_keys(value, inner.item_type, where, f"{path[:-1]}[{number}].")


def _alternatives(kind: msgspec.inspect.Type) -> Sequence[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _alternatives(kind.type)
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _unknown(where: str, path: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"{where}: unknown key {path!r}; {hint}"
