"""From an object's bytes to the bytes in etcd and back, through a list of providers of which the first one writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from plugins.lab import envelope
from plugins.lab.envelope import EnvelopeError, Sealed
from plugins.lab.errors import LabError
from plugins.lab.kmsprobe import KmsProbe
from plugins.lab.kmsservice import KmsError, KmsService

ENCRYPTED = b"k8s:enc:"


class Transformer(Protocol):
    """One provider. prefix: with what its values begin."""

    prefix: bytes

    def to_storage(self, path: str, data: bytes) -> bytes:
        """Encrypt an object for its etcd key."""

    def from_storage(self, path: str, value: bytes) -> tuple[bytes, bool]:
        """The object, and whether a write would store it differently now (stale)."""


class Identity:
    """No encryption; it refuses what is encrypted."""

    prefix = b""

    def to_storage(self, path: str, data: bytes) -> bytes:
        """As it is."""
        return data

    def from_storage(self, path: str, value: bytes) -> tuple[bytes, bool]:
        """As it is."""
        if value.startswith(ENCRYPTED):
            raise EnvelopeError("identity transformer tried to read encrypted data")
        return value, False


class KmsTransformer:
    """Envelope encryption under a KMS v2 plugin, with the API server's cache of opened seeds."""

    def __init__(
        self, name: str, service: KmsService, probe: KmsProbe, ttl: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """ttl: of a cached seed, seconds."""
        self.prefix = envelope.prefix(name)
        self._name = name
        self._service = service
        self._probe = probe
        self._seeds = SeedCache(ttl, now)

    @property
    def cached(self) -> int:
        """How many seeds are in the cache."""
        return len(self._seeds)

    def to_storage(self, path: str, data: bytes) -> bytes:
        """Under the current seed; a network call is never made here."""
        state = self._probe.write_state()
        self._seeds.put(state.sealed.cache_key(), state.seed)
        return envelope.encode(self._name, state.sealed, envelope.seal(state.seed, data, path.encode()))

    def from_storage(self, path: str, value: bytes) -> tuple[bytes, bool]:
        """With a cached seed, or one that the plugin decrypts. Stale: another key_id than the current one."""
        sealed, data = envelope.decode(self._name, value)
        current = self._probe.state().sealed
        plaintext = envelope.unseal(self._seed(sealed), data, path.encode(), seed=sealed.seed)
        return plaintext, sealed.key_id != current.key_id or sealed.seed != current.seed

    def _seed(self, sealed: Sealed) -> bytes:
        key = sealed.cache_key()
        seed = self._seeds.get(key)
        if seed is None:
            try:
                seed = self._service.decrypt(sealed)
            except KmsError as error:
                raise LabError(f"failed to decrypt DEK, error: {error}") from error
            self._seeds.put(key, seed)
        return seed


class SeedCache:
    """Seeds by the hash of how they were sealed. One that is too old is still found until the next `put` clears up."""

    def __init__(self, ttl: float, now: Callable[[], float]) -> None:
        self._ttl = ttl
        self._now = now
        self._seeds: dict[bytes, tuple[float, bytes]] = {}
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._seeds)

    def get(self, key: bytes) -> bytes | None:
        """The seed, however old."""
        with self._guard:
            found = self._seeds.get(key)
        return found[1] if found else None

    def put(self, key: bytes, seed: bytes) -> None:
        """Keep a seed, and drop those that are too old."""
        with self._guard:
            now = self._now()
            self._seeds[key] = (now + self._ttl, seed)
            self._seeds = {k: v for k, v in self._seeds.items() if v[0] > now}


class Providers:
    """The list in an EncryptionConfiguration: the first one writes, each reads what begins with its prefix."""

    def __init__(self, transformers: Sequence[Transformer]) -> None:
        self._transformers = tuple(transformers)

    def to_storage(self, path: str, data: bytes) -> bytes:
        """Write with the first provider."""
        return self._transformers[0].to_storage(path, data)

    def from_storage(self, path: str, value: bytes) -> tuple[bytes, bool]:
        """Read with the one that fits; what another than the first one wrote is stale.

        Raises:
            LabError: no provider fits, or the one that fits cannot read it.
        """
        errors = []
        for index, transformer in enumerate(self._transformers):
            if not value.startswith(transformer.prefix):
                continue
            try:
                data, stale = transformer.from_storage(path, value)
            except LabError as error:
                if transformer.prefix:  # identity only guesses, by its empty prefix
                    errors.append(str(error))
                continue
            return data, stale or index != 0
        raise LabError(", ".join(errors) or "no matching prefix found")
