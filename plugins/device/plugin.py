"""The device daemon between a start and a stop: rules, inventory, source, and a server for each resource."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from plugins.api.deviceplugin.v1beta1 import deviceplugin_pb2_grpc as rpc
from plugins.core import log
from plugins.core.plugin import Listener, Plugin, Registration, Runtime, Server, Service
from plugins.core.registration.kubelet import KubeletRegistration
from plugins.device import endpoints, resources
from plugins.device.config import DeviceConfig
from plugins.device.inventory import Inventory
from plugins.device.registration import WatchedResource
from plugins.device.resources import Rule
from plugins.device.service import DevicePlugin
from plugins.device.sources.udev import UdevSource

logger = log.get("device")

_WORKERS = 8  # threads for unary calls, made on demand; the kubelet calls one at a time


class DeviceDaemon(Plugin[DeviceConfig]):
    """Serves the configured resources."""

    def __init__(self, runtime: Runtime[DeviceConfig]) -> None:
        super().__init__(runtime)
        self._rules = resources.read(runtime.config)
        self._inventory = Inventory(self._rules)
        self._source = UdevSource(
            resources.wanted(self._rules), self._inventory, receive_buffer=runtime.config.receive_buffer
        )
        self._registrations: list[Registration] = []

    def start(self) -> Sequence[Server]:
        """List the devices, so that the first list that the kubelet sees is complete."""
        resources.check_socket(self.runtime.config)
        if not self._rules:
            logger.warning("no resource is configured: nothing is served; `nodeplug device example-config` shows how")
            return ()
        self._source.start()
        return [self._serve(rule) for rule in self._rules]

    def registrations(self) -> Sequence[Registration]:
        """One for each resource."""
        return self._registrations

    def drain(self) -> None:
        """End the streams: the kubelet lets go of the devices, containers that have some keep them."""
        self._inventory.close()

    def stop(self) -> None:
        """End the thread that follows the devices."""
        self._source.stop()

    def _serve(self, rule: Rule) -> Server:
        if rule.style == "watcher":
            return self._by_watcher(rule)
        return self._by_kubelet(rule)

    def _by_watcher(self, rule: Rule) -> Server:
        config, state_dir = self.runtime.config, self.runtime.state_dir
        path = endpoints.registry_socket(config.kubelet_dir, state_dir, rule)
        registration = WatchedResource(rule.full_name, path)
        self._registrations.append(registration)
        service = self._service(DevicePlugin(rule, self._inventory, self._source, registration))
        return Server(rule.name, (service, registration.service), (registration.listener,), _WORKERS)

    def _by_kubelet(self, rule: Rule) -> Server:
        config, state_dir = self.runtime.config, self.runtime.state_dir
        path = endpoints.device_plugin_socket(config.kubelet_dir, state_dir, rule)
        listener = Listener(f"device/{rule.full_name}", path, mode=config.socket_mode, gid=config.socket_gid)
        registration = KubeletRegistration(
            rule.full_name,
            listener,
            kubelet_socket=endpoints.kubelet_socket(config.kubelet_dir),
            preferred_allocation=True,
        )
        self._registrations.append(registration)
        service = self._service(DevicePlugin(rule, self._inventory, self._source, registration))
        return Server(rule.name, (service,), (listener,), _WORKERS)

    def _service(self, servicer: DevicePlugin) -> Service:
        return functools.partial(rpc.add_DevicePluginServicer_to_server, servicer)
