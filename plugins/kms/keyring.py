"""The keyring in force: an immutable snapshot. Whoever serves a call takes one snapshot and uses nothing else.

Decryption goes by an allow-list: a key_id from a request is looked up among the keys of the snapshot and is never
used to find, name or load a key in any other way.
"""

from __future__ import annotations

from dataclasses import dataclass

from plugins.core.errors import ConfigError, FailedPrecondition, NotFound
from plugins.kms import keyids
from plugins.kms.document import Document, KeyRecord, State
from plugins.kms.envelope import DERIVED_SIZE, Sealer
from plugins.kms.memory import SecretMemory

_READS = (State.STAGED, State.ACTIVE, State.RETIRING)
_WRITES = (State.ACTIVE, State.RETIRING)  # retiring: for the API server that was told so and has not asked since
_PROBE = b"nodeplug keyring self test"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a snapshot; without a sealer it is retired and only known by name."""

    key_id: str
    state: State
    sealer: Sealer | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A ciphertext and the key_id it was made under: they come from one object, so they cannot disagree."""

    ciphertext: bytes
    key_id: str


class Keyring:
    """All keys of one generation of the keyring. Never changed after it was made."""

    def __init__(self, document: Document) -> None:
        """
        Args:
            document: parsed and checked; its secrets are not kept, only what is derived from them.

        Raises:
            ConfigError: the active key does not open what it sealed.
        """
        self.cluster = document.cluster
        self.provider = document.provider
        self.lineage = document.lineage
        self.generation = document.generation
        self._memory = SecretMemory(DERIVED_SIZE * len(document.keys))
        self._keys = {key.key_id: self._key(key) for key in document.keys}
        self.active = next(key for key in self._keys.values() if key.state is State.ACTIVE)
        self._self_test()

    @property
    def locked(self) -> bool:
        """Whether the keys' memory is kept from being swapped out."""
        return self._memory.locked

    def readable(self) -> frozenset[str]:
        """The key_ids that this snapshot decrypts."""
        return frozenset(key.key_id for key in self._keys.values() if key.state in _READS)

    def retired(self) -> frozenset[str]:
        """The key_ids that it knows and does not decrypt any more."""
        return frozenset(self._keys) - self.readable()

    def seal(self, plaintext: bytes, announced: str | None) -> Sealed:
        """Encrypt under the announced key while it may still write, otherwise under the active one.

        Args:
            plaintext: 1 to envelope.PLAINTEXT_MAX bytes.
            announced: the key_id that the caller was last told; None if it never asked.
        """
        key = self._keys.get(announced or "")
        if key is None or key.state not in _WRITES:
            key = self.active
        assert key.sealer is not None  # every state but RETIRED has one
        return Sealed(key.sealer.seal(plaintext), key.key_id)

    def open(self, ciphertext: bytes, key_id: str) -> bytes:
        """Decrypt what `seal` made under that key_id.

        Raises:
            NotFound: no key of that key_id was ever in this keyring.
            FailedPrecondition: the key is retired.
            InvalidArgument: the ciphertext is no envelope of that key, or was changed.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound(f"no key of the keyring (generation {self.generation}) has the key_id {_shown(key_id)}")
        if key.sealer is None:
            raise FailedPrecondition(f"the key {key_id} is retired and decrypts nothing any more")
        return key.sealer.open(ciphertext)

    def _key(self, record: KeyRecord) -> Key:
        if record.state is State.RETIRED or record.secret is None:
            return Key(record.key_id, State.RETIRED, None)
        sealer = Sealer(
            record.secret, cluster=self.cluster, provider=self.provider, key_id=record.key_id, memory=self._memory
        )
        return Key(record.key_id, record.state, sealer)

    def _self_test(self) -> None:
        sealed = self.seal(_PROBE, None)
        if self.open(sealed.ciphertext, sealed.key_id) != _PROBE:
            raise ConfigError("the active key does not open what it sealed: the cryptographic library is at fault")


def _shown(key_id: str) -> str:
    """A request's text is repeated only where it has our form; otherwise its hash, as API server metrics show it."""
    if keyids.well_formed(key_id):
        return key_id
    return f"with the hash {keyids.metric_hash(key_id)}, which is not of our form"
