"""`nodeplug csi` for the command line. The daemon itself is imported only by a command that serves."""

from __future__ import annotations

from plugins.core.plugin import DaemonSpec, Plugin, Runtime
from plugins.csi import config as settings
from plugins.csi import tools
from plugins.csi.config import CsiConfig
from plugins.csi.records import MIGRATIONS


def _build(runtime: Runtime[CsiConfig]) -> Plugin[CsiConfig]:
    from plugins.csi.plugin import CsiPlugin

    return CsiPlugin(runtime)


def describe(config: CsiConfig) -> list[str]:
    """What `check-config` says; raises ConfigError for what would keep the daemon from starting."""
    limit = config.volume_limit or "no"
    return [
        f"driver {settings.driver_name(config)} on {settings.socket_path(config)}",
        f"registered by {settings.registration_path(config)}",
        f"node {settings.node_id(config)}, topology {settings.topology_key(config)}, {limit} volume limit",
        tools.describe_pool(config),
        f"targets below {', '.join(str(root) for root in settings.allowed_roots(config))}",
    ]


SPEC: DaemonSpec[CsiConfig] = DaemonSpec(
    name="csi",
    summary="CSI driver: volumes as reflink images on this node's own disks",
    config=CsiConfig,
    build=_build,
    migrations=MIGRATIONS,
    describe=describe,
    sockets=lambda config: (settings.socket_path(config), settings.registration_path(config)),
    tools=tools.add,
    quiet=frozenset({"Probe", "GetCapacity", "NodeGetVolumeStats", "NodeGetCapabilities", "ListVolumes"}),
)
