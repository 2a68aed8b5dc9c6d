"""The plugin object: what it serves, and what a reload does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from plugins.core.errors import ConfigError
from plugins.core.plugin import Runtime
from plugins.core.store import Store
from plugins.kms import document, memory
from plugins.kms.providers import file
from plugins.kms.wiring import DEFAULT_SOCKET, SPEC, KmsConfig, KmsPlugin
from tests.unit.kms import kit


@pytest.fixture
def config(short_tmp: Path) -> KmsConfig:
    path = short_tmp / "keyring.json"
    file.create(path, kit.made(), -1, -1)
    return KmsConfig(keyring=path)


@pytest.fixture
def plugin(config: KmsConfig, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsPlugin]:
    monkeypatch.setattr(memory, "harden_process", lambda: None)  # it would outlive the test
    plugin = KmsPlugin(Runtime(config, cast(Store, None), short_tmp))
    yield plugin
    plugin.stop()


def test_one_socket_at_the_usual_place(plugin: KmsPlugin) -> None:
    (server,) = plugin.start()
    assert [(listener.name, listener.path) for listener in server.listeners] == [("kms", DEFAULT_SOCKET)]
    assert plugin.registrations() == ()


def test_a_reload_reads_the_keyring_or_says_why_not(plugin: KmsPlugin, config: KmsConfig) -> None:
    plugin.start()
    file.change(config.keyring, lambda doc: document.rotate(doc, kit.NOW))
    plugin.reload(config)
    assert plugin.keyring.current.generation == 2
    config.keyring.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0600"):
        plugin.reload(config)
    assert plugin.keyring.current.generation == 2


def test_another_configuration_needs_a_restart(plugin: KmsPlugin, config: KmsConfig) -> None:
    plugin.start()
    with pytest.raises(ConfigError, match="next start"):
        plugin.reload(structs.replace(config, keyring=Path("/elsewhere")))


def test_check_config_says_what_would_run(config: KmsConfig) -> None:
    told = "\n".join(SPEC.describe(config))
    assert "generation 1, 1 keys" in told
    config.keyring.unlink()
    with pytest.raises(ConfigError, match="kms init"):
        SPEC.describe(config)
