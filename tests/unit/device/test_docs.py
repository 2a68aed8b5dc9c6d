"""The operator's page: its configurations are read, its tables are those of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from plugins.device import config
from tests.unit.device.kit import rules

PAGE = (Path(__file__).parents[3] / "docs/device.md").read_text()


def test_every_configuration_on_the_page_is_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    names = [rule.name for block in blocks for rule in rules(*tomllib.loads(block)["resources"])]
    assert names == ["kvm", "fuse", "serial", "amd-gpu", "camera", "meter", "door", "loop", "tun"]


def test_every_key_is_explained() -> None:
    for kind in (config.Resource, config.Selector, config.Condition):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"[`{{ .]{re.escape(field.encode_name)}[` =.]", PAGE), field.encode_name
