"""`nodeplug device`: what core must know of it. Imports no gRPC: tools and checks start at once."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.core import log
from plugins.core.plugin import DaemonSpec, Plugin, Runtime
from plugins.device import endpoints, resources, tools
from plugins.device.config import DeviceConfig


def describe(config: DeviceConfig) -> Sequence[str]:
    """What would be served, and which devices that is at this moment. Raises ConfigError."""
    resources.check_socket(config)
    rules = resources.read(config)
    if not rules:
        return ["no resource is configured: nothing would be served; see example-config"]
    log.setup("error")  # what the inventory would log is what is printed here
    inventory, _ = tools.look(rules)
    return [tools.summary(inventory.snapshot(rule.name)) for rule in rules]


def _build(runtime: Runtime[DeviceConfig]) -> Plugin[DeviceConfig]:
    from plugins.device.plugin import DeviceDaemon

    return DeviceDaemon(runtime)


SPEC: DaemonSpec[DeviceConfig] = DaemonSpec(
    name="device",
    summary="The node's devices as resources of the kubelet: device plugin v1beta1",
    config=DeviceConfig,
    build=_build,
    describe=describe,
    sockets=lambda config: [endpoints.likeness(config.kubelet_dir, rule) for rule in resources.read(config)],
    tools=tools.add,
    quiet=frozenset({"GetDevicePluginOptions", "GetPreferredAllocation"}),
)
