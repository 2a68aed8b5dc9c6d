"""The configuration of `nodeplug csi`."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError
from plugins.core.plugin import state_dir
from plugins.core.units import Bytes, Seconds
from plugins.csi.ids import MAX_NODE

DEFAULT_POOL = "default"  # what people and metrics call the one that `pool` names

# CSI, GetPluginInfo: at most 63 characters, and a letter at both ends.
_DRIVER_NAME = re.compile(r"[a-zA-Z](?:[A-Za-z0-9.-]{0,61}[a-zA-Z])?")
_NODE_ID = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")  # a Kubernetes node name (RFC 1123)


class CsiConfig(DaemonConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `nodeplug csi` can be told."""

    domain: Annotated[
        str,
        Meta(
            description="Ends the driver name local.csi.<domain> and with it the topology key topology.<driver>/node."
        ),
    ] = "nodeplug.internal"
    node_id: Annotated[
        str | None,
        Meta(description="Name of this node, as Kubernetes has it. Volume ids carry it. Unset: the host name."),
    ] = None
    volume_limit: Annotated[
        int, Meta(ge=0, description="How many volumes the scheduler may put on this node; 0: no limit.")
    ] = 0
    default_fs: Annotated[
        str,
        Meta(pattern="^(ext4|xfs)$", description="Filesystem of volumes whose storage class names none: ext4 or xfs."),
    ] = "ext4"
    default_size: Annotated[Bytes, Meta(description="Size of volumes that are asked for without one.")] = Bytes(1 << 30)
    allowed_roots: Annotated[
        tuple[Path, ...],
        Meta(description="Directories, besides pods and plugins below kubelet_dir, below which targets may lie."),
    ] = ()
    pool: Annotated[
        Path | None,
        Meta(
            description="Directory for the volumes, on XFS with reflink or on btrfs. On any other filesystem the "
            "embedded pool is mounted there. Unset: pool, in state_dir."
        ),
    ] = None
    embedded: Annotated[
        bool,
        Meta(
            description="Where the pool's directory cannot share blocks between files: make an XFS image and mount it "
            "there. false: refuse to start."
        ),
    ] = True
    embedded_image: Annotated[
        Path | None, Meta(description="Image of the embedded pool. Unset: the pool's path with .img added.")
    ] = None
    embedded_size: Annotated[
        Bytes, Meta(description="Size of a new embedded pool. Its image is sparse: it takes what is written.")
    ] = Bytes(64 << 30)
    reserve: Annotated[Bytes, Meta(description="Space of the pool that no volume is promised.")] = Bytes(256 << 20)
    overcommit: Annotated[
        float,
        Meta(
            ge=0.01,
            le=1000,
            description="Bytes of volumes that may be promised per byte of the pool. Volumes are thin; above 1 the "
            "pool can fill up under them.",
        ),
    ] = 1.0
    templates: Annotated[
        int,
        Meta(ge=1, le=10000, description="Ready-made filesystems that are kept, one per filesystem and volume size."),
    ] = 32
    trim_interval: Annotated[
        Seconds,
        Meta(
            description="How often filesystems in use are trimmed in the background, so that the pool gets back what "
            "was deleted in them; 0: never. Volumes mounted with the option discard give it back at once."
        ),
    ] = Seconds(24 * 3600)
    freeze_limit: Annotated[
        Seconds,
        Meta(
            description="How long a snapshot may hold a filesystem frozen (consistency = filesystem, and groups). "
            "Afterwards its writers go on and the snapshot fails."
        ),
    ] = Seconds(20)
    stall_limit: Annotated[
        Seconds,
        Meta(
            description="How long a snapshot or copy of a volume in use may be expected to keep its writers waiting: "
            "that goes by the number of pieces in which the image lies. Beyond it the call fails. 0: no limit."
        ),
    ] = Seconds(10)
    cgroup_root: Annotated[
        Path, Meta(description="Where cgroup v2 is mounted. Limits of volumes (readIOPS and so on) are kept there.")
    ] = Path("/sys/fs/cgroup")
    cgroup_parent: Annotated[
        str | None,
        Meta(description="The cgroup above all pods, relative to cgroup_root. Unset: kubepods.slice or kubepods."),
    ] = None
    attach: Annotated[
        bool,
        Meta(
            description="Whether volumes must be attached (ControllerPublishVolume) before they can be staged. They "
            "lie on their node and need it not: only for clusters whose CSIDriver object says attachRequired."
        ),
    ] = False
    expansion: Annotated[
        str,
        Meta(
            pattern="^(node|controller)$",
            description="Who grows volumes. node: the node service does all of it, so that one resizer of a cluster "
            "serves every node. controller: the controller service grows the image; for clusters of one node.",
        ),
    ] = "node"


def driver_name(config: CsiConfig) -> str:
    """The CSI driver's name.

    Raises:
        ConfigError: the domain does not give a name that CSI allows.
    """
    name = f"local.csi.{config.domain}"
    if not _DRIVER_NAME.fullmatch(name):
        raise ConfigError(f"domain {config.domain!r} makes the driver name {name!r}, which CSI does not allow")
    return name


def topology_key(config: CsiConfig) -> str:
    """The topology segment that names the node of a volume."""
    return f"topology.{driver_name(config)}/node"


def node_id(config: CsiConfig) -> str:
    """This node's name.

    Raises:
        ConfigError: it cannot be part of a volume id.
    """
    name = config.node_id if config.node_id is not None else socket.gethostname().lower()
    if not _NODE_ID.fullmatch(name) or len(name) > MAX_NODE:
        raise ConfigError(f"node_id {name!r} is no node name: up to {MAX_NODE} of a-z, 0-9, '-' and '.'; set node_id")
    return name


def socket_path(config: CsiConfig) -> Path:
    """Where the kubelet and the sidecars find the driver."""
    return config.socket or config.kubelet_dir / "plugins" / driver_name(config) / "csi.sock"


def registration_path(config: CsiConfig) -> Path:
    """Where the kubelet's plugin watcher finds it."""
    return config.kubelet_dir / "plugins_registry" / f"{driver_name(config)}-reg.sock"


def allowed_roots(config: CsiConfig) -> tuple[Path, ...]:
    """Below which directories requests may name paths."""
    return (config.kubelet_dir / "pods", config.kubelet_dir / "plugins", *config.allowed_roots)


def pool_path(config: CsiConfig) -> Path:
    """The pool's directory."""
    return config.pool or state_dir(config, "csi") / "pool"


def pool_image(config: CsiConfig) -> Path:
    """The embedded pool's image, whether there is one or not."""
    path = pool_path(config)
    return config.embedded_image or path.with_name(path.name + ".img")
