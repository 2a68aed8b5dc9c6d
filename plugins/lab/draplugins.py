"""What the kubelet does with plugins of type DRAPlugin when they register: several instances of a driver may.

Only registration is modelled: claims need a scheduler and an API server's ResourceSlices, which the lab has not.
"""

from __future__ import annotations

import threading

from plugins.lab.errors import LabError

SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin")  # what the kubelet speaks, newest first


class DraPlugins:
    """The registration handler: driver name -> endpoints, the last one registered is the one that is called."""

    def __init__(self) -> None:
        self._instances: dict[str, list[tuple[str, str]]] = {}
        self._guard = threading.Lock()

    def validate(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """The "versions" of a DRA plugin are gRPC services; one of them must be known."""
        chosen_service(name, endpoint, versions)

    def register(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Another instance of a driver is welcome; the endpoint of one that is there is not."""
        service = chosen_service(name, endpoint, versions)
        with self._guard:
            instances = self._instances.setdefault(name, [])
            if any(endpoint == taken for taken, _ in instances):
                raise LabError(f"endpoint {endpoint} already registered for DRA driver plugin {name}")
            instances.append((endpoint, service))

    def deregister(self, name: str, endpoint: str) -> None:
        """Forget one instance."""
        with self._guard:
            left = [i for i in self._instances.pop(name, []) if i[0] != endpoint]
            if left:
                self._instances[name] = left

    def endpoints(self, name: str) -> list[str]:
        """The registered instances of a driver, oldest first."""
        with self._guard:
            return [endpoint for endpoint, _ in self._instances.get(name, [])]


def chosen_service(name: str, endpoint: str, services: tuple[str, ...]) -> str:
    """The first service in the plugin's own order that the kubelet speaks.

    Raises:
        LabError: there is none.
    """
    where = f"invalid supported gRPC versions of DRA driver plugin {name} at endpoint {endpoint}"
    if not services:
        raise LabError(f"{where}: empty list of supported gRPC services (aka supported versions)")
    for service in services:
        if service in SERVICES:
            return service
    raise LabError(
        f"{where}: none of services supported by the plugin ({list(services)}) are supported ({list(SERVICES)})"
    )
