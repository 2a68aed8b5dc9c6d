"""Selectors: the conditions of the configuration, asked of a device, with a reason where they do not hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from plugins.device import config
from plugins.device.hardware import Device, KernelObject, Wanted
from plugins.device.patterns import Pattern

Read = Callable[[KernelObject], Collection[str]]


@dataclass(frozen=True)
class Test:
    """One condition: what it looks at, how to read that, and what it has to be."""

    what: str
    read: Read
    pattern: Pattern

    def holds(self, found: KernelObject) -> bool:
        """Whether the device, or the parent, meets it."""
        return self.pattern.holds(self.read(found))

    def failure(self, found: KernelObject) -> str:
        """Why it does not hold."""
        values = ", ".join(repr(value) for value in sorted(self.read(found))) or "not there"
        return f"{self.what} is {values}, wanted {self.pattern}"


@dataclass(frozen=True)
class ParentTest:
    """Conditions on the parents of one subsystem.

    Some parent has to meet all demands at once, and no parent that does may have what is denied: "not of vendor 0403"
    must not come true because the hub above the device is of another vendor.
    """

    subsystem: str
    tests: tuple[Test, ...]

    def holds(self, device: Device) -> bool:
        """Whether the parents of the device meet them."""
        meant = [p for p in self._parents(device) if all(t.pattern.allows(t.read(p)) for t in self.tests)]
        return bool(meant) and all(test.holds(parent) for parent in meant for test in self.tests)

    def failure(self, device: Device) -> str:
        """Why they do not: the reason of the parent that comes nearest to it."""
        reasons = [[test.failure(p) for test in self.tests if not test.holds(p)] for p in self._parents(device)]
        name = "" if self.subsystem == "*" else f"{self.subsystem} "
        if not reasons:
            return f"there is no {name}parent"
        return f"{name}parent: {min(filter(None, reasons), key=len)[0]}"

    def _parents(self, device: Device) -> list[KernelObject]:
        return [p for p in device.parents if self.subsystem in ("*", p.subsystem)]


class Selector:
    """All conditions of one `select` or `exclude` table."""

    def __init__(self, wanted: config.Selector) -> None:
        """Raises KeyedError: a condition cannot be used; the key says which."""
        self._tests = tuple(_own_tests(wanted))
        self._parents = tuple(
            ParentTest(subsystem, tuple(_under(f"parent.{subsystem}", _common_tests(parent))))
            for subsystem, parent in wanted.parent.items()
        )
        if not self._tests and not self._parents:
            raise KeyedError("", "it has no condition and would take every device of the node")
        for parent in self._parents:
            if not parent.tests:
                raise KeyedError(f"parent.{parent.subsystem}", "it has no condition; for any such parent: name = '*'")
        self.wanted = _wanted(wanted, self._tests)

    def selects(self, device: Device) -> bool:
        """Whether every condition holds."""
        return all(test.holds(device) for test in self._tests) and all(p.holds(device) for p in self._parents)

    def why_not(self, device: Device) -> str:
        """The first condition that does not hold; empty if all do."""
        for test in self._tests:
            if not test.holds(device):
                return test.failure(device)
        return next((p.failure(device) for p in self._parents if not p.holds(device)), "")


class KeyedError(ValueError):
    """A condition that cannot be used, with its key below the selector."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


def merge(all_wanted: Iterable[Wanted]) -> Wanted:
    """What several selectors want of a source together."""
    found = list(all_wanted)
    return Wanted(
        _union([w.subsystems for w in found]),
        _union([w.parents for w in found]),
        frozenset().union(*(w.properties for w in found)),
        frozenset().union(*(w.attributes for w in found)),
    )


def _union(sets: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    united: frozenset[str] = frozenset()
    for names in sets:
        if names is None:
            return None
        united |= names
    return united


def _wanted(selector: config.Selector, tests: Iterable[Test]) -> Wanted:
    subsystems = next((t.pattern.literals() for t in tests if t.what == "subsystem"), None)
    parents = None if "*" in selector.parent else frozenset(selector.parent)
    objects: list[config.ParentSelector] = [selector, *selector.parent.values()]
    properties = frozenset(name for o in objects for name in o.properties)
    attributes = frozenset(name for o in objects for name in o.attributes)
    return Wanted(subsystems, parents, properties, attributes)


def _own_tests(selector: config.Selector) -> Iterable[Test]:
    if selector.subsystem is not None:
        yield _test("subsystem", "subsystem", lambda o: _known(o.subsystem), selector.subsystem)
    yield from _common_tests(selector)
    if selector.node is not None:
        yield _test("node", "node", _paths, selector.node, path=True)
    if selector.tags is not None:
        yield _test("tags", "tags", lambda o: o.tags, selector.tags)


def _common_tests(selector: config.ParentSelector) -> Iterable[Test]:
    fields: tuple[tuple[str, config.Value | None, Read], ...] = (
        ("devtype", selector.devtype, lambda o: _known(o.devtype)),
        ("name", selector.name, lambda o: _known(o.sys_name)),
        ("driver", selector.driver, lambda o: _known(o.driver)),
    )
    for key, value, read in fields:
        if value is not None:
            yield _test(key, key, read, value)
    for name, value in selector.properties.items():
        yield _test(f"properties.{name}", f"property {name}", lambda o, n=name: _item(o.properties, n), value)  # type: ignore[misc]
    for name, value in selector.attributes.items():
        if name.startswith("/") or ".." in name.split("/"):
            raise KeyedError(f"attributes.{name}", "an attribute is a file below the device's own folder")
        yield _test(f"attributes.{name}", f"attribute {name}", lambda o, n=name: _item(o.attributes, n), value)  # type: ignore[misc]


def _under(key: str, tests: Iterable[Test]) -> Iterable[Test]:
    try:
        yield from tests
    except KeyedError as error:
        raise KeyedError(f"{key}.{error.key}", error.reason) from error


def _test(key: str, what: str, read: Read, value: config.Value, *, path: bool = False) -> Test:
    try:
        return Test(what, read, Pattern(value, path=path))
    except ValueError as error:
        raise KeyedError(key, str(error)) from error


def _known(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _item(values: Mapping[str, str], name: str) -> tuple[str, ...]:
    found = values.get(name)
    return () if found is None else (found,)


def _paths(found: KernelObject) -> tuple[str, ...]:
    if isinstance(found, Device) and found.node is not None:
        return (found.node.path, *found.links)
    return ()
