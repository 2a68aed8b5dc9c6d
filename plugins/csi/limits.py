"""How fast a volume may be used: parameters of its classes, and the kernel's limit on its loop device.

The record says what is wanted. The limit itself is in the kernel and gone after a reboot, or left to the next volume
that gets the same loop device: so it is set at every stage, publish and start of the daemon, and cleared at unstage.
"""

from __future__ import annotations

from collections.abc import Mapping

from plugins.core import faults, log
from plugins.core.errors import DataLoss, InvalidArgument
from plugins.core.units import Bytes
from plugins.csi.host.cgroups import IoMax, Limit
from plugins.csi.model import Volume
from plugins.csi.pool.devices import Device
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records

logger = log.get("csi.limits")

_FIELDS = {
    "readBytesPerSecond": "read_bytes",
    "writeBytesPerSecond": "write_bytes",
    "readIOPS": "read_operations",
    "writeIOPS": "write_operations",
}
NAMES = frozenset(_FIELDS)
_NONE = "max"
_LARGEST = (1 << 63) - 1  # the kernel keeps a 64-bit number
_LARGEST_OPERATIONS = (1 << 32) - 1


class Limits:
    """Limits of the volumes of this node. Callers hold the volume's lock, except for `reapply` at the start."""

    def __init__(self, records: Records, pool: Pool, io_max: IoMax | None, reason: str) -> None:
        """io_max: None where the node cannot limit anything; reason: why."""
        self._records = records
        self._pool = pool
        self._io_max = io_max
        self.reason = reason

    @property
    def available(self) -> bool:
        """Whether this node can limit volumes at all."""
        return self._io_max is not None

    def check(self, parameters: Mapping[str, str]) -> None:
        """Refuse limits that cannot be kept; parameters that are no limits are not looked at.

        Raises:
            InvalidArgument: a value that is none, or this node cannot limit anything.
        """
        parse(parameters)
        if self._io_max is None and NAMES & parameters.keys():
            raise InvalidArgument(f"{min(NAMES & parameters.keys())!r} cannot be kept on this node: {self.reason}")

    def check_mutable(self, parameters: Mapping[str, str]) -> None:
        """The same for mutable parameters, of which only limits are known.

        Raises:
            InvalidArgument: as `check`, or a parameter that is not known.
        """
        unknown = sorted(parameters.keys() - NAMES)
        if unknown:
            known = ", ".join(sorted(NAMES))
            raise InvalidArgument(f"mutable parameter {unknown[0][:64]!r} is not known; known are {known}")
        self.check(parameters)

    def modify(self, volume: Volume, wanted: Mapping[str, str]) -> None:
        """Change limits of a volume: all of them or none, at once where it is in use.

        Raises:
            InvalidArgument: as `check_mutable`; nothing was changed.
        """
        if not wanted:
            raise InvalidArgument("mutable_parameters is missing")
        self.check_mutable(wanted)
        mutable = {**volume.mutable, **wanted}
        self._records.set_mutable(volume.id, mutable)
        faults.point("csi.modify.recorded")
        try:
            self._apply_where_attached(volume, limit_of(volume.parameters, mutable))
        except BaseException:
            self._records.set_mutable(volume.id, volume.mutable)
            raise
        faults.point("csi.modify.applied")
        logger.info("volume modified", volume_id=volume.id, **dict(wanted))

    def apply(self, volume: Volume, device: Device) -> None:
        """Let a volume's device have the volume's limits, and none that the device had before."""
        if self._io_max:
            self._io_max.set(device.rdev, limit_of(volume.parameters, volume.mutable))

    def clear(self, device: Device) -> None:
        """Let a device have no limits: somebody else will get it."""
        if self._io_max:
            self._io_max.set(device.rdev, Limit())

    def reapply(self) -> None:
        """At the start: limits of all volumes in use, which may have been lost or changed meanwhile."""
        for staging in self._records.stagings() if self._io_max else ():
            volume = self._records.volume(staging.volume_id)
            if volume is None:
                continue
            try:
                self._apply_where_attached(volume, limit_of(volume.parameters, volume.mutable))
            except (OSError, DataLoss) as error:
                logger.error("the limits of a volume could not be set", volume_id=volume.id, reason=str(error))

    def _apply_where_attached(self, volume: Volume, limit: Limit) -> None:
        if self._io_max is None:
            return
        with self._pool.opened(volume.token) as image:
            device = self._pool.devices.find(image)
        if device:
            self._io_max.set(device.rdev, limit)


def limit_of(parameters: Mapping[str, str], mutable: Mapping[str, str]) -> Limit:
    """What both classes of a volume say together: the mutable one wins, name by name."""
    return parse({**parameters, **mutable})


def parse(parameters: Mapping[str, str]) -> Limit:
    """The limits among some parameters.

    Raises:
        InvalidArgument: a value is neither a positive number (with a unit such as Mi or k) nor "max".
    """
    return Limit(**{_FIELDS[name]: _value(name, parameters[name]) for name in NAMES & parameters.keys()})


def _value(name: str, text: str) -> int:
    if text == _NONE:
        return 0
    try:
        value = Bytes.parse(text[:-1] + "K" if text.endswith("k") else text)  # a thousand is "1k" in Kubernetes
    except ValueError:
        value = Bytes(0)
    if not 0 < value <= (_LARGEST_OPERATIONS if name.endswith("IOPS") else _LARGEST):
        raise InvalidArgument(f"parameter {name} is {text[:64]!r}; it can be a positive number such as 50Mi, or max")
    return int(value)
