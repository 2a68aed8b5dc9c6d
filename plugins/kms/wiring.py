"""`nodeplug kms`: configuration and the daemon's parts put together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from plugins.core.config import DaemonConfig
from plugins.core.plugin import DaemonSpec, Listener, Plugin, Runtime, Server
from plugins.kms import tools

DEFAULT_SOCKET = Path("/run/nodeplug/kms/kms.sock")


class KmsConfig(DaemonConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the KMS daemon has beside the common keys."""

    keyring: Annotated[
        Path, Meta(description="The file with the keys; only this daemon's user may read it. Make it with `kms init`.")
    ] = tools.DEFAULT_KEYRING


class KmsPlugin(Plugin[KmsConfig]):
    """The keyring, the watch over its file, and the service."""

    def __init__(self, runtime: Runtime[KmsConfig]) -> None:
        super().__init__(runtime)
        from plugins.core.registration.presence import Presence

        self._presence = Presence()

    def start(self) -> Sequence[Server]:
        """Read the keyring, then serve; raises ConfigError where there is none that can be used."""
        from plugins.api.kms.v2 import kms_pb2_grpc as rpc
        from plugins.kms import memory
        from plugins.kms.live import LiveKeyring
        from plugins.kms.providers.file import FileProvider
        from plugins.kms.service import KeyManagement

        memory.harden_process()  # before the first key is in memory
        config = self.runtime.config
        self.keyring = LiveKeyring(FileProvider(config.keyring))
        self._presence.watch(config.keyring.absolute().parent, self.keyring.check)
        self._presence.start()
        add = functools.partial(rpc.add_KeyManagementServiceServicer_to_server, KeyManagement(self.keyring))
        return [Server("kms", services=(add,), listeners=(Listener("kms", config.socket or DEFAULT_SOCKET),))]

    def stop(self) -> None:
        """End the watch; the keys are wiped when the last call has let go of them."""
        self._presence.stop()

    def reload(self, config: KmsConfig) -> None:
        """Read the keyring again (SIGHUP); a changed configuration needs a restart."""
        super().reload(config)
        self.keyring.reload()


def describe(config: KmsConfig) -> list[str]:
    """What `check-config` says; raises ConfigError where the keyring cannot be used."""
    from plugins.kms.providers.file import FileProvider

    ring = FileProvider(config.keyring).load()
    return [
        f"KMS v2 on {config.socket or DEFAULT_SOCKET}",
        f"keyring {config.keyring}: generation {ring.generation}, {len(ring.readable())} keys to decrypt with",
        f"cluster {ring.cluster}, provider name {ring.provider}",
        f"active key {ring.active.key_id}",
    ]


SPEC: DaemonSpec[KmsConfig] = DaemonSpec(
    name="kms",
    summary="KMS v2 plugin: envelope encryption for kube-apiserver with keys that never lie beside the data",
    config=KmsConfig,
    build=KmsPlugin,
    describe=describe,
    sockets=lambda config: (config.socket or DEFAULT_SOCKET,),
    tools=tools.add,
    quiet=frozenset({"Status", "Encrypt", "Decrypt"}),  # what matters of them is logged by service and keyring
)
