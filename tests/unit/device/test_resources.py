"""The configuration of resources: what is taken, and how a mistake is said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from plugins.core import config as core_config
from plugins.core.errors import ConfigError
from plugins.device import resources
from plugins.device.config import DeviceConfig
from tests.unit.device.kit import device, rule, rules

SELECT = [{"subsystem": "misc"}]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "kvm", "selct": SELECT}, "resource 'kvm': unknown key 'selct'; did you mean 'select'?"),
        (
            {"name": "kvm", "select": [{"subsytem": "misc"}]},
            "resource 'kvm': unknown key 'select[0].subsytem'; did you mean 'subsystem'?",
        ),
        (
            {"name": "kvm", "select": [{"parent": {"usb": {"idVendor": "0403"}}}]},
            "resource 'kvm': unknown key 'select[0].parent.usb.idVendor'; known keys: ",
        ),
        (
            {"name": "kvm", "select": [{"attributes": {"a": {"glb": "x"}}}]},
            "resource 'kvm': unknown key 'select[0].attributes.a.glb'; did you mean 'glob'?",
        ),
        ({"name": "kvm", "select": [{"name": "a[b"}]}, "resource 'kvm': select[0].name: the pattern 'a[b' has a "),
        (
            {"name": "kvm", "select": SELECT, "exclude": [{"name": {"regex": "("}}]},
            "resource 'kvm': exclude[0].name: the regular expression '(' is not valid",
        ),
        ({"name": "kvm", "select": [{}]}, "resource 'kvm': select[0]: it has no condition"),
        ({"name": "kvm"}, "resource 'kvm': select is missing"),
        ({"select": SELECT}, "resource number 1: "),
        ({"name": "a/b", "select": SELECT}, "resource 'a/b': name: "),
        ({"name": "x" * 64, "select": SELECT}, "name: up to 63"),
        ({"name": "kvm", "select": SELECT, "shares": 0}, "resource 'kvm': Expected `int` >= 1 - at `shares`"),
        ({"name": "kvm", "select": SELECT, "permissions": "rx"}, "`permissions`"),
        ({"name": "kvm", "select": SELECT, "permissions": "rr"}, "`permissions`"),
        ({"name": "kvm", "select": SELECT, "registration": "both"}, "`registration`"),
        ({"name": "kvm", "select": [{"name": 1.5}]}, "resource 'kvm': "),
    ],
)
def test_a_mistake_is_said_with_the_resource_the_key_and_the_nearest_known_one(
    table: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        rules(table)


def test_a_name_that_is_there_twice() -> None:
    with pytest.raises(ConfigError, match="resource 'a' is there 2 times"):
        rules({"name": "a", "select": SELECT}, {"name": "a", "select": SELECT})


@pytest.mark.parametrize(
    "domain", ["", "Upper.case", "a..b", "-a", "kubernetes.io", "x.kubernetes.io", "requests.x", "a b"]
)
def test_domains_that_the_kubelet_would_refuse(domain: str) -> None:
    with pytest.raises(ConfigError, match="domain"):
        rules({"name": "a", "select": SELECT}, domain=domain)


def test_one_socket_for_several_resources_cannot_be() -> None:
    with pytest.raises(ConfigError, match="socket cannot be set"):
        resources.check_socket(DeviceConfig(socket=Path("/run/x.sock")))


def test_the_first_rule_that_selects_a_device_has_it() -> None:
    made = rules(
        {"name": "one", "select": [{"name": "kvm"}], "exclude": [{"node": "/dev/kvm"}]},
        {"name": "two", "select": [{"name": "k*"}]},
        {"name": "three", "select": [{"subsystem": "misc"}]},
    )
    found = device("kvm")
    assert resources.first(made, found) is made[1]
    assert made[0].why_not(found) == "exclude[0] takes it out"
    assert resources.first(made, device("x", subsystem="tty")) is None


def test_a_rule_tells_the_reason_of_each_of_its_selectors_once() -> None:
    made = rule(select=[{"name": "a"}, {"name": "a", "driver": "b"}, {"subsystem": "tty"}])
    assert made.why_not(device("kvm")) == "name is 'kvm', wanted 'a'; subsystem is 'misc', wanted 'tty'"


def test_what_is_excluded_does_not_widen_the_search() -> None:
    wanted = resources.wanted([rule(select=[{"subsystem": "block"}], exclude=[{"attributes": {"ro": "1"}}])])
    assert wanted.subsystems == frozenset({"block"})
    assert wanted.attributes == frozenset({"ro"})
    assert resources.wanted([]).subsystems == frozenset()


def test_the_examples_of_the_example_configuration_work_when_they_are_uncommented() -> None:
    text = core_config.example(DeviceConfig, "device")
    assert tomllib.loads(text)["domain"] == "nodeplug.internal"
    examples = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    tables = tomllib.loads(text + "\n".join(examples))["resources"]
    assert [made.name for made in rules(*tables)] == ["kvm", "fuse", "tun", "loop", "ftdi"]


def test_resources_can_be_given_on_the_command_line() -> None:
    setting = 'resources=[{name="kvm",shares="3",select=[{subsystem="misc",attributes={dev="10:232"}}]}]'
    loaded = core_config.load(DeviceConfig, "device", file=None, environ={}, overrides=[setting])
    (made,) = resources.read(loaded)
    assert (made.full_name, made.shares) == ("nodeplug.internal/kvm", 3)
