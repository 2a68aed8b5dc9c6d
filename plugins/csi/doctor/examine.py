"""Records, the pool's directory and the kernel compared.

A daemon may be at work meanwhile, so a thing counts only where two looks, one after the other, both see it, and no
announced operation explains it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from plugins.csi import ledger
from plugins.csi.doctor import files, kernel
from plugins.csi.doctor.finding import Finding, Places, Report
from plugins.csi.host import mountinfo
from plugins.csi.pool import marker

_BETWEEN_LOOKS_S = 0.5


def examine(places: Places) -> Report:
    """Compare everything, twice."""
    served = ledger.served(places.state_dir)
    there, notes = _pool_there(places)
    found = set(_look(places, there, served))
    if found and served:
        time.sleep(_BETWEEN_LOOKS_S)  # a volume that is being staged is attached some moments before it is recorded
    return Report(tuple(sorted(found and found & set(_look(places, there, served)))), tuple(notes), served)


def _look(places: Places, there: bool, served: bool) -> Iterator[Finding]:
    # The files before the records: an operation is announced before it makes a file.
    images = files.Files(places.pool) if there else None
    records = ledger.read(places.state_dir / "state.db")
    mounts = mountinfo.read()
    loops = kernel.loops(places.pool, records, images.tokens("volumes") if images else set())
    if images:
        yield from files.identity(places.pool, records)
        yield from files.images(images, records)
        yield from files.templates(images, served)
        yield from files.unfinished(images, records)
    elif not places.image.exists() and (records.volumes or records.snapshots):
        advice = "mount the filesystem of the pool there; the daemon refuses to start until then"
        yield Finding("pool-missing", str(places.pool), "the pool that the records belong to is not there", advice)
    yield from kernel.strays(loops, records)
    yield from kernel.mounted(loops, records, mounts, places.roots)
    yield from kernel.stagings(loops, records, mounts)
    if not served:
        for intent in records.intents:
            yield Finding(
                *("interrupted", intent["key"], f"an operation ({intent['kind']}) was interrupted"),
                "start the daemon: it finishes or undoes it first",
            )


def _pool_there(places: Places) -> tuple[bool, list[str]]:
    if (places.pool / marker.NAME).exists():
        return True, []
    if places.image.exists():
        return False, [f"the embedded pool {places.image} is not mounted at {places.pool}: images were not looked at"]
    return False, [f"there is no pool at {places.pool}: images were not looked at"]
