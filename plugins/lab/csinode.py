"""What the kubelet knows of CSI drivers: the drivers registered with it, and the node's CSINode object.

The two have different lives. The list of drivers is the kubelet's memory: it begins empty at every start. CSINode
lies in the API server: a restart of the kubelet leaves it alone, and only an unregistration takes a driver off it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from plugins.api.csi.v1 import csi_pb2 as pb
from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.lab.channels import channel, reason
from plugins.lab.errors import LabError, Transient
from plugins.lab.journal import Journal
from plugins.lab.names import is_dns_subdomain, is_qualified_name
from plugins.lab.timings import KubeletTimings

_VERSION = re.compile(r"v?(\d+(?:\.\d+)+)(?:[-+].*)?")
_NODE_ID_BYTES = 256  # storage.k8s.io validation of CSINodeDriver.nodeID
_NAME_BYTES = 63


@dataclass(frozen=True)
class NodeDriver:
    """A driver's entry in CSINode."""

    name: str
    node_id: str
    max_volumes: int
    topology: Mapping[str, str]


@dataclass
class CsiNode:
    """The node's objects in the API server that a driver has a part in. Outlives the kubelet."""

    name: str = "lab-node"
    drivers: dict[str, NodeDriver] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def install(self, driver: NodeDriver) -> None:
        """Write a driver into CSINode and its topology into the node's labels.

        Raises:
            LabError: what the API server's validation, or the kubelet before it, refuses.
        """
        _check_entry(driver)
        for key, value in driver.topology.items():
            if self.labels.get(key, value) != value:
                raise LabError(
                    f"detected topology value collision: driver reported {key!r}:{value!r} "
                    f"but existing label is {key!r}:{self.labels[key]!r}"
                )
        self.labels.update(driver.topology)
        self.drivers[driver.name] = driver


@dataclass(frozen=True)
class Driver:
    """A driver in the kubelet's memory."""

    name: str
    endpoint: Path
    version: tuple[int, ...]


class CsiDrivers:
    """The registration handler for plugins of type CSIPlugin, and the way to a registered driver."""

    def __init__(self, node: CsiNode, journal: Journal, timings: KubeletTimings) -> None:
        self.node = node
        self._journal = journal
        self._timings = timings
        self._drivers: dict[str, Driver] = {}
        self._guard = threading.Lock()

    def validate(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """A version 1.x, and nobody of that name who has as high a version: one registration socket per driver."""
        version = highest(versions)
        with self._guard:
            existing = self._drivers.get(name)
        if existing and existing.version >= version:
            raise LabError(
                f"for CSI driver {name!r} failed. Another driver with the same name is already registered with a "
                f"higher supported version: {'.'.join(map(str, existing.version))!r}"
            )

    def register(self, name: str, endpoint: str, versions: tuple[str, ...]) -> None:
        """Ask the driver who it is on this node, and write that into CSINode."""
        self.validate(name, endpoint, versions)
        with self._guard:
            self._drivers[name] = Driver(name, Path(endpoint), highest(versions))
        try:
            self.node.install(self._node_info(name))
        except LabError:
            self._drop(name)
            raise
        self._journal.record("csinode", name, drivers=tuple(self.node.drivers))

    def deregister(self, name: str, endpoint: str) -> None:
        """Take the driver off CSINode. Its labels stay on the node."""
        self._drop(name)
        self._journal.record("csinode", name, drivers=tuple(self.node.drivers))

    def get(self, name: str) -> Driver:
        """A registered driver.

        Raises:
            Transient: it is not registered (any more, or yet).
        """
        with self._guard:
            if name not in self._drivers:
                raise Transient(f"driver name {name} not found in the list of registered CSI drivers")
            return self._drivers[name]

    @contextmanager
    def connect(self, name: str) -> Iterator[grpc.Channel]:
        """A connection to a driver. The kubelet makes one per operation, so each sees the socket of the moment."""
        with channel(self.get(name).endpoint) as connection:
            yield connection

    def _node_info(self, name: str) -> NodeDriver:
        with self.connect(name) as connection:
            try:
                info = rpc.NodeStub(connection).NodeGetInfo(pb.NodeGetInfoRequest(), timeout=self._timings.csi)
            except grpc.RpcError as error:
                raise LabError(reason(error)) from error
        return NodeDriver(name, info.node_id, info.max_volumes_per_node, dict(info.accessible_topology.segments))

    def _drop(self, name: str) -> None:
        with self._guard:
            self._drivers.pop(name, None)
        self.node.drivers.pop(name, None)


def highest(versions: tuple[str, ...]) -> tuple[int, ...]:
    """The highest of the dotted versions a driver reports, which must be a 1.x; 2 and above is not looked at.

    Raises:
        LabError: none of them is usable.
    """
    if not versions:
        raise LabError("Plugin returned an empty list for supported versions")
    matches = [m for m in map(_VERSION.fullmatch, versions) if m]
    usable = [v for v in (tuple(map(int, m.group(1).split("."))) for m in matches) if v[0] < 2]
    if not usable or max(usable)[0] != 1:
        raise LabError(f"None of the versions specified {list(versions)} are supported")
    return max(usable)


def _check_entry(driver: NodeDriver) -> None:
    if not driver.node_id:
        raise LabError("error adding CSI driver node info: driverNodeID must not be empty")
    if len(driver.node_id.encode()) > _NODE_ID_BYTES:
        raise LabError(f"spec.drivers.nodeID: Invalid value: must be {_NODE_ID_BYTES} characters or less")
    if len(driver.name) > _NAME_BYTES or not is_dns_subdomain(driver.name.lower()):
        raise LabError(f"spec.drivers.name: Invalid value: {driver.name!r}")
    for key in driver.topology:
        if not is_qualified_name(key):
            raise LabError(f"spec.drivers.topologyKeys: Invalid value: {key!r}")
