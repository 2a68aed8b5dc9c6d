"""key_ids: opaque, derived, the same on every node that holds the same keyring, and never used twice.

The API server compares key_ids for equality and stores them in clear in every object, so one must tell nothing and
must change whenever the key does. A number or a name of somebody's choice can come back with another key behind it;
a hash over the key's fingerprint cannot. `docs/kms-envelope.md` is the exact definition.
"""

from __future__ import annotations

import base64
import re

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plugins.kms.canonical import join

SCHEME = "np1."
SLOT_SIZE = 8
"""Bytes of a key's slot."""

_KEY_ID = b"nodeplug.internal/kms/key-id/v1"
_FINGERPRINT = b"nodeplug.internal/kms/fingerprint/v1"
_SLOT = b"nodeplug.internal/kms/slot/v1"
_FORM = re.compile(r"np1\.[A-Za-z0-9_-]{43}")


def fingerprint(secret: bytes) -> bytes:
    """32 bytes that name a secret and do not tell it."""
    return HKDF(SHA256(), length=32, salt=None, info=_FINGERPRINT).derive(secret)


def derive(cluster: str, lineage: bytes, fingerprint: bytes, version: int, epoch: int) -> str:
    """The key_id of one key in one epoch.

    Args:
        cluster: the cluster's id, as in the keyring.
        lineage: 16 random bytes made with the keyring: two keyrings never meet, even with equal names and numbers.
        fingerprint: of the secret.
        version: number of the key in its keyring, from 1, never given twice.
        epoch: raised to get a new key_id, and with it new seeds everywhere, for the same secret.
    """
    numbers = version.to_bytes(4, "big"), epoch.to_bytes(4, "big")
    digest = sha256(join(_KEY_ID, cluster.encode(), lineage, fingerprint, *numbers))
    return SCHEME + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def well_formed(key_id: str) -> bool:
    """Whether a text from a request looks like a key_id of ours, so that it may be repeated in a message."""
    return bool(_FORM.fullmatch(key_id))


def slot(key_id: str) -> bytes:
    """The short name of a key inside its envelopes: finds the key where the key_id beside an envelope was lost."""
    return sha256(join(_SLOT, key_id.encode()))[:SLOT_SIZE]


def metric_hash(key_id: str) -> str:
    """As the API server's key_id_hash labels show it: "sha256:" and hexadecimal digits."""
    return "sha256:" + sha256(key_id.encode()).hex()


def sha256(data: bytes) -> bytes:
    """From the library that is loaded anyway: hashlib would bring a second OpenSSL into the process."""
    digest = Hash(SHA256())
    digest.update(data)
    return digest.finalize()
