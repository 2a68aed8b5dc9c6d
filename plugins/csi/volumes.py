"""Volumes come and go: the controller's rules, without gRPC.

Order of steps, so that a kill at any of them leaves something that start-up can settle:
create   image (hidden, filled, durable), record, the image's name
delete   intent, image unlinked, record and intent in one commit
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from plugins.core import faults, log
from plugins.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from plugins.csi import ids, paging, sizes
from plugins.csi.capacity import Capacity
from plugins.csi.host.filesystems import BLOCK, KNOWN
from plugins.csi.limits import NAMES, Limits
from plugins.csi.model import PROVISIONING, Capability, NewVolume, Volume, is_thick
from plugins.csi.pool import allocation
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records
from plugins.csi.sources import Source, Sources
from plugins.csi.staging import Stagings

logger = log.get("csi.volumes")

CREATE, DELETE = "create", "delete"


class Volumes:
    """The volumes of this node."""

    def __init__(
        self,
        records: Records,
        pool: Pool,
        capacity: Capacity,
        stagings: Stagings,
        sources: Sources,
        limits: Limits,
        *,
        node: str,
        topology_key: str,
        default_fs: str,
        default_size: int,
    ) -> None:
        self._records = records
        self._pool = pool
        self._capacity = capacity
        self._stagings = stagings
        self._sources = sources
        self._limits = limits
        self._node = node
        self._default_fs = default_fs
        self._default_size = default_size
        self.topology = {topology_key: node}

    def create(self, wanted: NewVolume) -> Volume:
        """The volume of that name, made now unless it exists. The caller holds the name's lock.

        Raises:
            InvalidArgument: the request can never be served.
            AlreadyExists: the name is taken by a volume that is not compatible.
            OutOfRange, ResourceExhausted: its size, this node's space, a topology without this node, or a source that
                lies elsewhere.
            NotFound: there is no such source.
        """
        fs, fs_given, block = _access(wanted.capabilities, self._default_fs)
        self._check_parameters(wanted.parameters)
        self._limits.check_mutable(wanted.mutable)
        size = sizes.plan(wanted.required, wanted.limit, minimum=self.smallest(fs), default=self._default_size)
        self._check_topology(wanted)
        existing = self._records.named(wanted.name)
        if existing:
            return _compatible(existing, wanted)
        source = self._sources.find(wanted) if wanted.source else None
        if source:
            size, fs = source.plan(wanted.required, wanted.limit), self._sources.filesystem(source, wanted.capabilities)
        with self._capacity.promise(size, self._node, thick=is_thick(wanted.parameters)):
            volume = self._make(wanted, size, fs, fs_given, block, source)
        logger.info("volume created", volume_id=volume.id, name=volume.name, size_bytes=size, fs=fs)
        return volume

    def delete(self, volume: Volume) -> None:
        """Remove a volume and give its space back. The caller holds the locks of its id and its name.

        Raises:
            FailedPrecondition: it is in use on this node.
        """
        self._stagings.check_unused(volume)
        intent = self._records.announce(DELETE, volume.id, token=volume.token)
        faults.point("csi.delete.announced")
        self._pool.images.remove(volume.token)
        faults.point("csi.delete.removed")
        self._records.remove(volume.id, intent)
        faults.point("csi.delete.recorded")
        self._capacity.release(volume.size, thick=volume.thick)
        logger.info("volume deleted", volume_id=volume.id, name=volume.name)

    def get(self, volume_id: str) -> Volume:
        """A volume of this node.

        Raises:
            InvalidArgument: the text cannot be a volume id of any driver.
            FailedPrecondition: it is another node's. NotFound: there is none.
        """
        check_id(volume_id)
        volume = self._records.volume(volume_id)
        if volume is None:
            known = ids.parse(volume_id)
            if known and known.node != self._node:
                raise FailedPrecondition(f"volume {volume_id!r} lies on node {known.node!r}; this is {self._node!r}")
            raise NotFound(f"volume {volume_id!r} does not exist on node {self._node!r}")
        return volume

    def to_delete(self, volume_id: str) -> Volume | None:
        """The volume that a DeleteVolume means; None where there is nothing to do.

        Raises:
            FailedPrecondition: it is another node's volume: "deleted" would be a lie that leaks it for ever.
        """
        check_id(volume_id)
        volume = self._records.volume(volume_id)
        known = ids.parse(volume_id)
        if volume is None and known and known.node != self._node:
            raise FailedPrecondition(f"volume {volume_id!r} lies on node {known.node!r}; this is {self._node!r}")
        return volume

    def page(self, token: str, limit: int) -> tuple[Sequence[Volume], str]:
        """Volumes in the order of their creation, and the token of the next page ("" at the end).

        Raises:
            InvalidArgument: a negative limit. Aborted: the token is none of ours.
        """
        return paging.page(token, limit, self._records.volumes)

    def available(
        self, capabilities: tuple[Capability, ...], topology: Mapping[str, str], parameters: Mapping[str, str]
    ) -> int:
        """Bytes that the largest volume of this kind could have; 0 where none can be made here."""
        self._check_parameters(parameters)
        if any(c.objection() for c in capabilities) or not self._matches(topology):
            return 0
        self._capacity.refresh()
        return self._capacity.available(thick=is_thick(parameters))

    def smallest_for(self, capability: Capability) -> int:
        """The smallest volume for a use, in bytes."""
        return self.smallest("" if capability.block else capability.fs or self._default_fs)

    def smallest(self, fs: str) -> int:
        """The smallest size of a volume with this filesystem, in bytes; "" for a raw one."""
        return KNOWN[fs].minimum if fs in KNOWN else BLOCK

    def _make(
        self, wanted: NewVolume, size: int, fs: str, fs_given: bool, block: bool, source: Source | None
    ) -> Volume:
        made = ids.new(self._node)
        volume = Volume(
            seq=0,
            id=str(made),
            token=made.token,
            name=wanted.name,
            size=size,
            fs=fs,
            fs_given=fs_given,
            block=block,
            used=source is not None,  # what is in it is somebody's
            parameters=dict(wanted.parameters),
            created=time.time(),
            source=wanted.source,
            mutable=dict(wanted.mutable),
        )
        # Work that takes long is announced, so that a look from outside knows what the hidden file is.
        announced = source or volume.thick
        intent = self._records.announce(CREATE, volume.id, token=volume.token) if announced else None
        try:
            faults.point("csi.create.announced")
            with (
                self._content(volume, source) as fill,
                self._pool.images.recorded(volume.token, fill, "csi.create"),
            ):
                self._records.add(volume, intent)
                faults.point("csi.create.recorded")
        except BaseException:
            if intent:
                self._records.settle(intent)
            raise
        return volume

    @contextlib.contextmanager
    def _content(self, volume: Volume, source: Source | None) -> Iterator[Callable[[int], None]]:
        """What fills a new image: a copy of the source, a clone of a ready-made filesystem, or nothing but length."""
        if source:
            content = self._sources.content(source, volume.size, volume.fs)
        else:
            content = self._pool.content(volume.fs, volume.size)
        with content as fill:
            yield (lambda fd: _keep_space(fd, fill, volume.size)) if volume.thick else fill

    def _check_parameters(self, parameters: Mapping[str, str]) -> None:
        """What the sidecars add for themselves is not ours to judge."""
        is_thick(parameters)
        unknown = sorted(
            key for key in parameters.keys() - NAMES - {PROVISIONING} if not key.startswith("csi.storage.k8s.io/")
        )
        if unknown:
            known = ", ".join(sorted(NAMES | {PROVISIONING}))
            raise InvalidArgument(f"parameter {unknown[0][:64]!r} is not known; known are {known}")
        self._limits.check(parameters)

    def _check_topology(self, wanted: NewVolume) -> None:
        if wanted.requisite and not any(self._matches(topology) for topology in wanted.requisite):
            raise ResourceExhausted(f"volumes of node {self._node!r} are accessible from that node only")

    def _matches(self, segments: Mapping[str, str]) -> bool:
        """Whether this node is in a topology: every segment that it names is one of ours."""
        return all(self.topology.get(key) == value for key, value in segments.items())


def check_id(text: str, what: str = "volume_id") -> None:
    """Refuse what nothing of any driver can be called; `what` names the field in the error.

    Raises:
        InvalidArgument: missing, too long, or with characters that only an attack would use.
    """
    if not text:
        raise InvalidArgument(f"{what} is missing")
    if len(text.encode()) > 128 or "/" in text or not text.isprintable() or text in (".", ".."):
        raise InvalidArgument(f"{what} is too long or contains characters that no id has")


def check_name(name: str) -> None:
    """Refuse a name that CSI forbids (length, control characters) or that is a path.

    Raises:
        InvalidArgument: says which.
    """
    if not name:
        raise InvalidArgument("name is missing")
    if len(name.encode()) > 128:
        raise InvalidArgument("name is longer than 128 bytes")
    if "/" in name or not name.isprintable() or name in (".", ".."):
        raise InvalidArgument("name contains '/' or control characters")


def _keep_space(fd: int, fill: Callable[[int], None], size: int) -> None:
    fill(fd)
    allocation.keep(fd, size)
    faults.point("csi.create.kept")


def _access(capabilities: tuple[Capability, ...], default_fs: str) -> tuple[str, bool, bool]:
    """(filesystem or "", whether it was asked for by name, whether raw use is wanted) for all capabilities together."""
    for capability in capabilities:
        objection = capability.objection()
        if objection:
            raise InvalidArgument(objection)
    named = {c.fs for c in capabilities if not c.block and c.fs}
    if len(named) > 1:
        raise InvalidArgument(f"a volume has one filesystem; {' and '.join(sorted(named))} were asked for")
    mounted = any(not c.block for c in capabilities)
    fs = next(iter(named), default_fs) if mounted else ""
    return fs, bool(named), any(c.block for c in capabilities)


def _compatible(existing: Volume, wanted: NewVolume) -> Volume:
    """The volume that has the name already, if it is what is wanted."""
    reason = next((o for c in wanted.capabilities if (o := existing.objection(c))), "")
    if existing.size < wanted.required or (wanted.limit and existing.size > wanted.limit):
        reason = f"it has {existing.size} bytes"
    if not reason and existing.parameters != dict(wanted.parameters):
        reason = "it was made with other parameters"
    if not reason and existing.source != wanted.source:
        reason = f"it began as a copy of {existing.source!r}" if existing.source else "it began empty"
    if reason:
        raise AlreadyExists(f"volume {wanted.name!r} exists and is not compatible: {reason}")
    return existing
