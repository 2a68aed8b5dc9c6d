"""One node's kubelet on a folder: plugin watcher, device manager, volume manager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from plugins.lab.csinode import CsiDrivers, CsiNode
from plugins.lab.devicemanager import DeviceManager
from plugins.lab.draplugins import DraPlugins
from plugins.lab.errors import LabError
from plugins.lab.journal import Event, Journal
from plugins.lab.reconciler import Handler, Reconciler, Registered
from plugins.lab.timings import KubeletTimings
from plugins.lab.volumes import VolumeManager
from plugins.lab.watcher import RegistryWatcher

FOLDERS = ("plugins", "pods")  # made by the kubelet itself at its start; the others by the parts that use them


class Kubelet:
    """A kubelet that can be started, replaced and ended; the node's objects and the journal outlive its restarts.

    with Kubelet(Path("/tmp/lab")) as kubelet:
        kubelet.wait_registered("local.csi.example", timeout=5)
    """

    def __init__(
        self,
        root: Path,
        *,
        timings: KubeletTimings | None = None,
        node: CsiNode | None = None,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        """
        Args:
            root: what is /var/lib/kubelet on a node; keep it short, socket paths below it have 107 bytes.
            timings: the real ones unless given.
            node: the node's objects in the API server.
            listener: called with every event, in the thread that records it.
        """
        self.root = root.resolve()  # as mountinfo shows it
        self.timings = timings or KubeletTimings()
        self.node = node or CsiNode()
        self.journal = Journal(listener)
        self._life: _Life | None = None

    def __enter__(self) -> Kubelet:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin a life: folders, checkpoint, kubelet.sock (all other sockets beside it go), the watch."""
        if self._life:
            raise LabError("the kubelet is running already")
        for folder in FOLDERS:
            (self.root / folder).mkdir(mode=0o750, parents=True, exist_ok=True)
        self._life = _Life(self)
        self._life.start()

    def stop(self) -> None:
        """End like a process does: nobody is told, connections break, kubelet.sock stays behind. May be repeated."""
        if self._life:
            life, self._life = self._life, None
            life.end()

    def restart(self) -> None:
        """Replace the kubelet: the old one ends without a word, the new one removes all sockets in device-plugins."""
        self.stop()
        self.start()

    @property
    def devices(self) -> DeviceManager:
        """The device manager of this life."""
        return self._alive().devices

    @property
    def drivers(self) -> CsiDrivers:
        """The CSI drivers of this life."""
        return self._alive().drivers

    @property
    def dra(self) -> DraPlugins:
        """The DRA plugins of this life."""
        return self._alive().dra

    @property
    def volumes(self) -> VolumeManager:
        """The volume manager, and the provisioner beside it."""
        return self._alive().volumes

    def registered(self) -> list[Registered]:
        """The plugins that the watcher has registered."""
        return self._alive().reconciler.registered()

    def wait_registered(self, name: str, *, timeout: float, since: int = 0) -> Event:
        """Wait until the watcher has registered a plugin of this name (or has since the journal's mark)."""
        return self.journal.wait("register", name, since=since, timeout=timeout)

    def _alive(self) -> _Life:
        if self._life is None:
            raise LabError("the kubelet is not running")
        return self._life


class _Life:
    """Everything that a kubelet process holds in memory."""

    def __init__(self, kubelet: Kubelet) -> None:
        root, journal, timings = kubelet.root, kubelet.journal, kubelet.timings
        self.devices = DeviceManager(root, journal, timings)
        self.drivers = CsiDrivers(kubelet.node, journal, timings)
        self.dra = DraPlugins()
        self.volumes = VolumeManager(root, self.drivers, journal, timings)
        self._watcher = RegistryWatcher(root / "plugins_registry")
        handlers: dict[str, Handler] = {
            "CSIPlugin": self.drivers,
            "DevicePlugin": self.devices.handler,
            "DRAPlugin": self.dra,
        }
        self.reconciler = Reconciler(self._watcher, handlers, journal, timings)

    def start(self) -> None:
        self.devices.start()
        self._watcher.start()
        self.reconciler.start()

    def end(self) -> None:
        self.reconciler.stop()
        self._watcher.stop()
        self.devices.vanish()
