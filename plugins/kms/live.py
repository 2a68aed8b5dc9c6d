"""The keyring in force and how it is replaced: wholly, or not at all."""

from __future__ import annotations

import threading

from plugins.core import log, metrics
from plugins.core.errors import ConfigError
from plugins.kms.keyring import Keyring
from plugins.kms.providers import Provider

logger = log.get("kms.keyring")

_generation = metrics.gauge("kms_keyring_generation", "Generation of the keyring in force.")
_reloads = metrics.counter("kms_keyring_reloads_total", "Times that a changed keyring was read.", ("result",))


class LiveKeyring:
    """Holds the snapshot in force. Readers take `current` once per call and need no lock."""

    def __init__(self, provider: Provider) -> None:
        """Raises ConfigError: there is no usable keyring."""
        self._provider = provider
        self._reloading = threading.Lock()  # one reload at a time: a later read must not lose to an earlier one
        self._seen = provider.identity()  # before the load: a change in between shows as a difference later
        self._complaint = ""
        self.current = provider.load()
        self._report()

    def reload(self) -> None:
        """Read the keyring again and put it in force.

        Raises:
            ConfigError: it cannot be used; the one in force stays.
        """
        with self._reloading:
            self._seen = self._provider.identity()
            new = self._provider.load()
            _check_successor(self.current, new)
            if new.generation != self.current.generation:
                self.current = new
                self._report()
            self._complaint = ""

    def check(self) -> None:
        """Reload if the source changed or could not be used the last time. Never raises for a bad keyring: that is
        logged, once as long as the reason stays the same."""
        if not self._complaint and self._provider.identity() == self._seen:
            return
        try:
            self.reload()
            _reloads.inc(result="ok")
        except ConfigError as error:
            _reloads.inc(result="refused")
            self._complain(error.message)

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            logger.error(
                "the changed keyring is not used; the old one stays in force",
                reason=reason,
                generation=self.current.generation,
            )

    def _report(self) -> None:
        ring = self.current
        _generation.set(ring.generation)
        if not ring.locked:
            logger.warning(
                "keys may be swapped out: raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=64K), or switch off swap"
            )
        logger.info("keyring in force", generation=ring.generation, active=ring.active.key_id)


def _check_successor(old: Keyring, new: Keyring) -> None:
    """What replaces a keyring in force is a later state of the same one, and drops no key that data may need."""
    if new.lineage != old.lineage:
        raise ConfigError("this is another keyring (its lineage differs); restart the daemon if that is meant")
    if new.generation < old.generation:
        raise ConfigError(
            f"this is an older copy of the keyring (generation {new.generation}, in force is {old.generation}); "
            "restart the daemon if that is meant"
        )
    same = new.generation == old.generation
    if same and (new.active.key_id != old.active.key_id or new.readable() != old.readable()):
        raise ConfigError(f"two different keyrings have generation {new.generation}: it was changed in two places")
    lost = old.readable() - new.readable() - new.retired()
    if lost:
        raise ConfigError(f"keys in use are missing from it, such as {min(lost)}; a key leaves only by being retired")
