"""The daemon's object: the pool, the domain on it, and the services in front."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from plugins.api.csi.v1 import csi_pb2_grpc as rpc
from plugins.core.locks import KeyedLocks
from plugins.core.plugin import Listener, Plugin, Runtime, Server, Service
from plugins.core.registration.watcher import CSI, WatcherRegistration
from plugins.csi import config as settings
from plugins.csi import pool_metrics, reconcile, snapshot_reconcile
from plugins.csi.attaching import Attachments
from plugins.csi.attachment_records import AttachmentRecords
from plugins.csi.capacity import Capacity
from plugins.csi.changes import Changes
from plugins.csi.config import CsiConfig
from plugins.csi.controller import Controller
from plugins.csi.cutting import Cutter
from plugins.csi.expansion import Expansion
from plugins.csi.group import GroupController
from plugins.csi.groups import Groups
from plugins.csi.health import Health
from plugins.csi.host import cgroups
from plugins.csi.host.paths import Roots
from plugins.csi.identity import Identity
from plugins.csi.limits import Limits
from plugins.csi.metadata import SnapshotMetadata
from plugins.csi.node import Node
from plugins.csi.pool.pool import Pool, PoolSettings
from plugins.csi.publishing import Publications
from plugins.csi.records import Records
from plugins.csi.snapshot_records import SnapshotRecords
from plugins.csi.snapshots import Account, Snapshots
from plugins.csi.sources import Sources
from plugins.csi.staging import Stagings
from plugins.csi.stats import Stats
from plugins.csi.trimming import Trimmer
from plugins.csi.volumes import Volumes

_POOL_FACT = "pool id"


class CsiPlugin(Plugin[CsiConfig]):
    """The pool, the volumes in it, and the three services."""

    def __init__(self, runtime: Runtime[CsiConfig]) -> None:
        super().__init__(runtime)
        config = runtime.config
        self._node = settings.node_id(config)
        self._driver = settings.driver_name(config)
        self._records = Records(runtime.store)
        self._snapshots = SnapshotRecords(runtime.store)
        self._registration = WatcherRegistration(
            CSI,
            self._driver,
            endpoint=str(settings.socket_path(config)),
            versions=("1.0.0",),
            socket=settings.registration_path(config),
            keep=True,
        )
        self._pool: Pool | None = None
        self._trimmer: Trimmer | None = None

    def start(self) -> Sequence[Server]:
        """Open the pool, settle what a crash interrupted, serve; raises ConfigError where the pool cannot be used."""
        config, records = self.runtime.config, self._records
        known = records.fact(_POOL_FACT) if self._any_images() else None
        pool = self._pool = Pool(_pool_settings(config), self._node, known)
        records.set_fact(_POOL_FACT, pool.id)
        snapshot_reconcile.settle(self._snapshots, records, pool)
        reconcile.settle(records, pool)
        reconcile.let_go(records, pool)
        reconcile.report(records, pool)
        snapshot_reconcile.report(self._snapshots, pool)
        listener = Listener("csi", settings.socket_path(config), mode=config.socket_mode, gid=config.socket_gid)
        services = (*self._services(pool), self._registration.service)
        self._trimmer = Trimmer(records, pool, Roots(settings.allowed_roots(config)), config.trim_interval)
        self._trimmer.start()
        return [Server("csi", services=services, listeners=(listener, self._registration.listener), workers=64)]

    def _any_images(self) -> bool:
        """Whether the state knows of anything that must be in the pool."""
        return bool(self._records.tokens() or self._snapshots.tokens() or self._records.intents())

    def registrations(self) -> Sequence[WatcherRegistration]:
        """One: the driver."""
        return (self._registration,)

    def drain(self) -> None:
        """No further trim."""
        if self._trimmer:
            self._trimmer.end()

    def stop(self) -> None:
        """Let go of the pool. Volumes in use stay in use."""
        if self._trimmer:
            self._trimmer.stop()
        if self._pool:
            self._pool.close()

    def _services(self, pool: Pool) -> Sequence[Service]:
        config, records = self.runtime.config, self._records
        promised = records.promised() + self._snapshots.all_held()
        capacity = Capacity(pool, promised, reserve=config.reserve, overcommit=config.overcommit)
        capacity.known(records.thick())
        pool_metrics.follow(settings.DEFAULT_POOL, pool, capacity)
        roots = Roots(settings.allowed_roots(config))
        limits = Limits(records, pool, *cgroups.find(config.cgroup_root, config.cgroup_parent))
        limits.reapply()
        stagings = Stagings(records, pool, roots, limits)
        cutter = Cutter(records, pool, roots, freeze_limit=config.freeze_limit, stall_limit=config.stall_limit)
        volumes = Volumes(
            records,
            pool,
            capacity,
            stagings,
            Sources(records, self._snapshots, pool, cutter, self._node),
            limits,
            node=self._node,
            topology_key=settings.topology_key(config),
            default_fs=config.default_fs,
            default_size=config.default_size,
        )
        expansion = Expansion(records, pool, capacity, roots, self._node)
        health = Health(records, pool, roots, config.reserve)
        account = Account(self._snapshots, capacity, self._node)
        snapshots = Snapshots(
            self._snapshots, records, pool, account, cutter, node=self._node, topology=volumes.topology
        )
        groups = Groups(self._snapshots, records, pool, account, cutter, node=self._node, topology=volumes.topology)
        attachments = Attachments(
            AttachmentRecords(self.runtime.store),
            stagings,
            node=self._node,
            limit=config.volume_limit,
            on=config.attach,
        )
        locks = KeyedLocks("volume")
        node = Node(
            volumes,
            stagings,
            Publications(records, pool, roots, stagings),
            Stats(records),
            expansion,
            health,
            attachments,
            locks,
            node_id=self._node,
            volume_limit=config.volume_limit,
        )
        controller = Controller(
            volumes,
            health,
            snapshots,
            limits,
            attachments,
            locks,
            expansion=expansion if config.expansion == "controller" else None,
        )
        return (
            functools.partial(rpc.add_IdentityServicer_to_server, Identity(self._driver, _version(), pool.check)),
            functools.partial(rpc.add_ControllerServicer_to_server, controller),
            functools.partial(rpc.add_GroupControllerServicer_to_server, GroupController(groups, locks)),
            functools.partial(rpc.add_NodeServicer_to_server, node),
            functools.partial(
                rpc.add_SnapshotMetadataServicer_to_server, SnapshotMetadata(snapshots, Changes(records, pool))
            ),
        )


def _pool_settings(config: CsiConfig) -> PoolSettings:
    return PoolSettings(
        path=settings.pool_path(config),
        image=settings.pool_image(config),
        image_size=config.embedded_size,
        allow_embedded=config.embedded,
        templates=config.templates,
    )


def _version() -> str:
    """The release, from the name of the folder that its installation made: importlib.metadata costs 0.8 MiB."""
    for folder in filter(os.path.isdir, sys.path):
        for name in os.listdir(folder):
            if name.startswith("nodeplug-") and name.endswith(".dist-info"):
                return name.removeprefix("nodeplug-").removesuffix(".dist-info")
    return "source"  # run from a checkout
