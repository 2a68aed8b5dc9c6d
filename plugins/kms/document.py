"""The keyring as it is kept: a versioned JSON document, and the changes that a person can make to it.

One document, so that replacing one file replaces everything that must agree. A record is never removed: a retired
key leaves its version number behind, and with it no key_id is ever given twice. All functions here are pure.
"""

from __future__ import annotations

import datetime
import enum
import os
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, structs

from plugins.core.errors import ConfigError
from plugins.kms import keyids
from plugins.kms.envelope import SECRET_SIZE

FORMAT = "nodeplug-kms-keyring"
VERSION = 1

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")]
Number = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class State(enum.Enum):
    """The life of a key. STAGED: every node may read with it, none writes yet; ACTIVE: writes, exactly one;
    RETIRING: still reads; RETIRED: does nothing any more."""

    STAGED = "staged"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. Its key_id is recorded although it can be derived: a difference shows a damaged record."""

    key_id: str
    version: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    epoch: Number = 0
    state: State
    created: Annotated[datetime.datetime, Meta(tz=True)]
    changed: Annotated[datetime.datetime, Meta(tz=True)]
    secret: bytes | None = None

    def __repr__(self) -> str:
        """Without the secret: a record may end in a traceback."""
        return f"KeyRecord({self.key_id!r}, {self.state.value})"


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole keyring.

    cluster, provider: what envelopes are bound to; the same on every node because they travel with the keys.
    lineage: 16 random bytes in hexadecimal, made with the keyring.
    generation: raised by each change; a lower one is an older copy.
    """

    format: str = FORMAT
    version: int = VERSION
    cluster: Name
    provider: Name
    lineage: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    generation: Annotated[int, Meta(ge=1, le=2**53)]
    keys: tuple[KeyRecord, ...]


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


def parse(data: bytes) -> Document:
    """Read a document and check all that must hold in it.

    Raises:
        ConfigError: what is wrong and where; never with key bytes in it.
    """
    head = _decode(data, _Head)
    if head.format != FORMAT:
        raise ConfigError(f'it is not a keyring: "format" must be "{FORMAT}"')
    if head.version != VERSION:
        raise ConfigError(f"it has format version {head.version}; this release reads version {VERSION}")
    document = _decode(data, Document)
    _check(document)
    return document


def serialise(document: Document) -> bytes:
    """The document as JSON, for people too: indented, one field a line."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def create(cluster: str, provider: str, now: datetime.datetime) -> Document:
    """A keyring with a first, active key.

    Raises:
        ConfigError: cluster or provider is not a name (letters, digits, dots, dashes, underscores; at most 253).
    """
    empty = Document(cluster=cluster, provider=provider, lineage=os.urandom(16).hex(), generation=1, keys=())
    document = structs.replace(empty, keys=(_new_key(empty, State.ACTIVE, now),))
    return parse(serialise(document))


def rotate(document: Document, now: datetime.datetime) -> Document:
    """A new key becomes active at once; the old one reads on. For a single control-plane node."""
    _refuse_staged(document, "put it in force with --activate")
    return _changed(document, (*_demoted(document, now), _new_key(document, State.ACTIVE, now)))


def stage(document: Document, now: datetime.datetime) -> Document:
    """A new key that reads but does not write yet: first half of a rotation over several nodes."""
    _refuse_staged(document, "put it in force before another is made")
    return _changed(document, (*document.keys, _new_key(document, State.STAGED, now)))


def activate(document: Document, now: datetime.datetime) -> Document:
    """The staged key becomes active: second half, when every node has the document with the staged key."""
    waiting = [key for key in document.keys if key.state is State.STAGED]
    if not waiting:
        raise ConfigError("no key is staged: make one with --stage, copy the keyring to every node, then activate")
    first = waiting[0].key_id
    keys = tuple(_moved(key, State.ACTIVE, now) if key.key_id == first else key for key in _demoted(document, now))
    return _changed(document, keys)


def active(document: Document) -> KeyRecord:
    """The key that writes."""
    return next(key for key in document.keys if key.state is State.ACTIVE)


def derived_key_id(document: Document, secret: bytes, version: int, epoch: int) -> str:
    """The key_id of a secret in this keyring."""
    lineage = bytes.fromhex(document.lineage)
    return keyids.derive(document.cluster, lineage, keyids.fingerprint(secret), version, epoch)


def _new_key(document: Document, state: State, now: datetime.datetime) -> KeyRecord:
    secret = os.urandom(SECRET_SIZE)
    version = max((key.version for key in document.keys), default=0) + 1
    key_id = derived_key_id(document, secret, version, 0)
    return KeyRecord(key_id=key_id, version=version, state=state, created=now, changed=now, secret=secret)


def _changed(document: Document, keys: tuple[KeyRecord, ...]) -> Document:
    changed = structs.replace(document, generation=document.generation + 1, keys=keys)
    _check(changed)
    return changed


def _demoted(document: Document, now: datetime.datetime) -> tuple[KeyRecord, ...]:
    return tuple(_moved(key, State.RETIRING, now) if key.state is State.ACTIVE else key for key in document.keys)


def _moved(key: KeyRecord, state: State, now: datetime.datetime) -> KeyRecord:
    return structs.replace(key, state=state, changed=now)


def _refuse_staged(document: Document, advice: str) -> None:
    for key in document.keys:
        if key.state is State.STAGED:
            raise ConfigError(f"the key {key.key_id} is staged already: {advice}")


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"it is not a valid keyring document: {error}") from None


def _check(document: Document) -> None:
    writers = sum(key.state is State.ACTIVE for key in document.keys)
    if writers != 1:
        raise ConfigError(f"{writers} keys are active; exactly one must be")
    for what, values in (
        ("key_id", [key.key_id for key in document.keys]),
        ("version", [key.version for key in document.keys]),
        ("secret", [key.secret for key in document.keys if key.secret is not None]),
    ):
        if len(set(values)) != len(values):
            raise ConfigError(f"two keys have the same {what}")
    for key in document.keys:
        _check_key(document, key)


def _check_key(document: Document, key: KeyRecord) -> None:
    where = f"the key of version {key.version}"
    if key.secret is None:
        if key.state is not State.RETIRED:
            raise ConfigError(f"{where} is {key.state.value} and has no secret; only a retired key may have none")
        if not keyids.well_formed(key.key_id):
            raise ConfigError(f"{where} has no valid key_id")
        return
    if len(key.secret) != SECRET_SIZE or len(set(key.secret)) < SECRET_SIZE // 4:
        # Random bytes are all but never that uniform; zeros, spaces and "changeme" are.
        raise ConfigError(f"{where} has a secret that is not {SECRET_SIZE} random bytes")
    if key.key_id != derived_key_id(document, key.secret, key.version, key.epoch):
        raise ConfigError(f"{where} has a key_id that is not that of its secret: the document was edited or damaged")
