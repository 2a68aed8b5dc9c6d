"""Blocks that programs have freed in their volumes go back to the pool: a paced trim in the background.

One volume at a time, a gigabyte at a time, and after each step a rest four times as long as the step took. No lock is
held: a step works on a descriptor of the mount, so the worst that it does to an unstage is to let it wait for the end
of that step (`mounts.unmount` waits half a second), and discarding what is free harms nobody.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from plugins.core import log, metrics
from plugins.core.errors import NodeplugError
from plugins.csi import ids
from plugins.csi.host.paths import Roots
from plugins.csi.host.trim import trim
from plugins.csi.model import Staging
from plugins.csi.pool.pool import Pool
from plugins.csi.records import Records

logger = log.get("csi.trim")

_STEP = 1 << 30  # bytes
_REST = 4  # times as long as the step before
_LAST = "last trim"  # a fact about the pool: seconds since the epoch, so that restarts do not put it off for ever

_rounds = metrics.counter("csi_trim_rounds_total", "Rounds of the background trim over all volumes in use.")
_discarded = metrics.counter("csi_trim_bytes_total", "Bytes that filesystems of volumes said to have discarded.")


class Trimmer:
    """The thread. `start` and `stop` once each."""

    def __init__(self, records: Records, pool: Pool, roots: Roots, interval: float) -> None:
        """interval: seconds between the beginnings of two rounds; 0: never."""
        self._records = records
        self._pool = pool
        self._roots = roots
        self._interval = interval
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to wait for the first round."""
        if self._interval:
            self._thread = threading.Thread(target=self._run, name="csi-trim", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Begin no further step."""
        self._ending.set()

    def stop(self) -> None:
        """End, and wait for the step under way."""
        self.end()
        if self._thread:
            self._thread.join(5)

    def round(self) -> int:
        """Trim every filesystem in use, unless it is time to end; returns the bytes that they discarded."""
        return sum(self._volume(staging) for staging in self._records.stagings() if not staging.block)

    def _run(self) -> None:
        while not self._ending.wait(self._due()):
            began = time.time()
            discarded = self.round()
            if not self._ending.is_set():
                self._records.set_fact(_LAST, str(began))
                _rounds.inc()
                logger.debug("volumes trimmed", discarded_bytes=discarded)

    def _due(self) -> float:
        """Seconds until the next round; never more than an interval, whatever the clock did."""
        last = self._records.fact(_LAST)
        if last is None:
            self._records.set_fact(_LAST, str(time.time()))
            return self._interval
        return min(self._interval, max(0.0, float(last) + self._interval - time.time()))

    def _volume(self, staging: Staging) -> int:
        total, start = 0, 0
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                discarded = self._step(staging, start)
            except (OSError, NodeplugError) as error:
                logger.warning("a volume cannot be trimmed", volume_id=staging.volume_id, reason=str(error))
                break
            if discarded is None:
                break
            total += discarded
            start += _STEP
            self._ending.wait(_REST * (time.monotonic() - began))
        _discarded.inc(total)
        return total

    def _step(self, staging: Staging, start: int) -> int | None:
        """Trim one piece; None where there is no further one, or the volume is not mounted any more."""
        volume = self._records.volume(staging.volume_id)
        if volume is None or volume.thick or start >= volume.size:
            return None
        with self._mounted(staging) as root:
            return None if root is None else trim(root, start, _STEP)

    @contextlib.contextmanager
    def _mounted(self, staging: Staging) -> Iterator[int | None]:
        """A descriptor of the root of a staged volume's filesystem; None where something else is there by now."""
        known = ids.parse(staging.volume_id)
        if known is None:
            yield None
            return
        with self._pool.opened(known.token) as image:
            device = self._pool.devices.find(image)
        place = self._roots.place(staging.path, "staging path")
        with place.directory() as directory:
            status = place.status(directory) if directory is not None else None
            if directory is None or device is None or status is None or status.dev != device.rdev:
                yield None
                return
            with place.opened(directory) as found:
                root = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield root
            finally:
                os.close(root)
