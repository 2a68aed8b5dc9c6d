"""The envelope: what Encrypt returns and etcd keeps, 82 bytes more than the plaintext (114 for a seed of 32).

    version 1 | suite 1 | slot 8 | nonce 24 | commitment 32 | ciphertext n | tag 16

`docs/kms-envelope.md` defines it for other implementations. Two properties beyond encryption: it is bound to cluster,
provider and key_id (through the derivation and again as associated data), and it commits to its key. AES-GCM alone
does not: with a key chosen through a hostile key_id, one ciphertext could open under two keys to two plaintexts.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plugins.core.errors import InvalidArgument
from plugins.kms import keyids, xaes
from plugins.kms.canonical import join
from plugins.kms.limits import CIPHERTEXT_MAX
from plugins.kms.memory import SecretMemory

VERSION = 0xE1
"""First byte: "envelope", format 1."""
XAES_256_GCM = 0x01
"""Suite: HKDF-SHA256 to an XAES-256-GCM key and a commitment."""

SECRET_SIZE = 32
DERIVED_SIZE = 64
"""Bytes of secret memory that one sealer takes."""

_DOMAIN = b"nodeplug.internal/kms/envelope/v1"
_COMMITMENT_SIZE = 32
_SLOT = 2
_NONCE = _SLOT + keyids.SLOT_SIZE
_COMMITMENT = _NONCE + xaes.NONCE_SIZE
_BODY = _COMMITMENT + _COMMITMENT_SIZE

OVERHEAD = _BODY + xaes.TAG_SIZE
PLAINTEXT_MAX = CIPHERTEXT_MAX - OVERHEAD


class Envelope(NamedTuple):
    """An envelope taken apart; nothing in it is verified yet."""

    suite: int
    slot: bytes
    nonce: bytes
    commitment: bytes
    body: bytes  # ciphertext and tag


def parse(data: bytes) -> Envelope:
    """Take an envelope apart.

    Raises:
        InvalidArgument: it is too short or too long for one, or of a format or suite that this release does not know.
    """
    if not OVERHEAD < len(data) <= CIPHERTEXT_MAX:
        raise InvalidArgument(f"the ciphertext has {len(data)} bytes and cannot be an envelope of this plugin")
    if data[0] != VERSION:
        raise InvalidArgument("the ciphertext is not an envelope of this plugin, or of a later release")
    if data[1] != XAES_256_GCM:
        raise InvalidArgument(f"the envelope is of suite {data[1]}, which this release does not know")
    return Envelope(data[1], data[_SLOT:_NONCE], data[_NONCE:_COMMITMENT], data[_COMMITMENT:_BODY], data[_BODY:])


class Sealer:
    """Seals and opens the envelopes of one key_id. Immutable, used by many threads at a time."""

    def __init__(self, secret: bytes, *, cluster: str, provider: str, key_id: str, memory: SecretMemory) -> None:
        """
        Args:
            secret: the 32 bytes of the key; not kept: what is derived from it does all the work.
            cluster, provider, key_id: what envelopes are bound to.
            memory: DERIVED_SIZE bytes are taken from it.
        """
        if len(secret) != SECRET_SIZE:
            raise ValueError(f"a key has {SECRET_SIZE} bytes")
        header = bytes((VERSION, XAES_256_GCM))
        self._context = join(_DOMAIN, header, cluster.encode(), provider.encode(), key_id.encode())
        self._memory = memory
        derived = memory.take(DERIVED_SIZE)
        HKDF(SHA256(), length=DERIVED_SIZE, salt=None, info=self._context).derive_into(secret, derived)
        self._key = derived[: xaes.KEY_SIZE]
        self._commitment = bytes(derived[xaes.KEY_SIZE :])
        self._slot = keyids.slot(key_id)
        self._header = header + self._slot

    def seal(self, plaintext: bytes) -> bytes:
        """An envelope with a fresh random nonce; plaintext of 1 to PLAINTEXT_MAX bytes."""
        nonce = os.urandom(xaes.NONCE_SIZE)
        return self._header + nonce + self._commitment + xaes.encrypt(self._key, nonce, plaintext, self._context)

    def open(self, data: bytes) -> bytes:
        """The plaintext of an envelope.

        Raises:
            InvalidArgument: it is no envelope, belongs to another key, cluster or provider, or was changed.
        """
        envelope = parse(data)
        if envelope.slot != self._slot:
            raise InvalidArgument("the envelope belongs to another key_id than the one beside it")
        # Compared before any decryption. Not in constant time: a commitment is public, each envelope carries it.
        if envelope.commitment != self._commitment:
            raise InvalidArgument("the envelope was made with another key, or for another cluster or provider name")
        try:
            return xaes.decrypt(self._key, envelope.nonce, envelope.body, self._context)
        except xaes.InvalidTag:
            raise InvalidArgument("the envelope does not authenticate: it was changed since it was made") from None
