"""Which devices a container gets: the kubelet's order of choice. Pure but for the one question to the plugin.

Devices on the wanted NUMA nodes come first. The plugin is asked for its preference where more devices fit than are
needed; its answer is a hint, and what is not available in it is ignored. Without NUMA affinity (no topology policy,
which is the default) nothing is "aligned" and the plugin is asked every time, even if all devices are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from plugins.lab.devicestate import DeviceInfo
from plugins.lab.errors import AdmissionError

Prefer = Callable[[frozenset[str], frozenset[str], int], frozenset[str]]
"""(available, must include, size) -> preferred; an empty set where the plugin was not asked or had no wish."""


def choose(
    resource: str,
    needed: int,
    available: frozenset[str],
    devices: Mapping[str, DeviceInfo],
    affinity: frozenset[int] | None,
    prefer: Prefer,
) -> frozenset[str]:
    """The devices to allocate.

    Args:
        needed: how many.
        available: healthy and free.
        affinity: NUMA nodes that the topology manager chose; None: no policy.

    Raises:
        AdmissionError: there are not enough.
    """
    if len(available) < needed:
        raise AdmissionError(
            f"requested number of devices unavailable for {resource}. Requested: {needed}, Available: {len(available)}"
        )
    aligned, rest = _by_affinity(available, devices, affinity)
    chosen: list[str] = []

    def take(source: Collection[str]) -> bool:
        for device in source if isinstance(source, list) else sorted(source):
            if len(chosen) < needed and device not in chosen:
                chosen.append(device)
        return len(chosen) == needed

    if needed < len(aligned):
        take(prefer(aligned, frozenset(), needed) & aligned)
        take(aligned)
    elif not take(aligned):
        take(prefer(available, frozenset(chosen), needed) & available)
        take(rest)
    return frozenset(chosen)


def _by_affinity(
    available: frozenset[str], devices: Mapping[str, DeviceInfo], affinity: frozenset[int] | None
) -> tuple[frozenset[str], list[str]]:
    """(devices on the wanted nodes, the others in the order in which they are taken)."""
    if affinity is None or not any(d.nodes for d in devices.values()):
        return frozenset(), sorted(available)
    aligned = frozenset(d for d in available if affinity & set(devices[d].nodes))
    others = sorted(available - aligned, key=lambda d: (not devices[d].nodes, d))
    return aligned, others
