"""What the API server stores for an object that a KMS v2 plugin protects: the format and its cryptography.

    k8s:enc:kms:v2:<provider>:<EncryptedObject, protobuf>

encryptedData of type HKDF_SHA256_XNONCE_AES_GCM_SEED (every write since 1.29) is info (32) | nonce (12) | ciphertext |
tag (16). The key is the first 32 bytes of HKDF-Expand with SHA-256, the seed as pseudorandom key, without Extract. The
etcd key is the additional data, so a value does not open under another path. Type AES_GCM_KEY (1.27, 1.28) is
nonce (12) | ciphertext | tag (16) under the key itself; it is read, never written. No gRPC in here.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from google.protobuf.message import DecodeError

from plugins.api.kms_storage.v2 import kms_storage_pb2 as pb
from plugins.lab.errors import LabError
from plugins.lab.names import is_fully_qualified_domain

PREFIX = b"k8s:enc:kms:v2:"
SEED = 32  # bytes
INFO = 32
NONCE = 12
LIMIT_KEY_ID = 1024
LIMIT_SOURCE = 1024
LIMIT_ANNOTATIONS = 32 * 1024


class EnvelopeError(LabError):
    """A stored value, or an answer of the plugin, is not what it must be."""


@dataclass(frozen=True)
class Sealed:
    """How a seed was sealed by the plugin; copied into every object that the seed protects.

    source: the plugin's ciphertext. seed: False: an old object whose source is the key itself.
    """

    key_id: str
    source: bytes
    annotations: Mapping[str, bytes] = field(default_factory=dict)
    seed: bool = True

    def check(self) -> None:
        """The API server's limits.

        Raises:
            EnvelopeError: the first rule that is broken.
        """
        if not self.source:
            raise EnvelopeError("failed to validate encrypted DEK source: encrypted DEK source is empty")
        if len(self.source) > LIMIT_SOURCE:
            raise EnvelopeError(
                f"failed to validate encrypted DEK source: encrypted DEK source is {len(self.source)} bytes, "
                f"which exceeds the max size of {LIMIT_SOURCE}"
            )
        check_key_id(self.key_id)
        for name in self.annotations:
            if not is_fully_qualified_domain(name):
                raise EnvelopeError(f"failed to validate annotations: {name!r} should be a fully qualified domain name")
        total = sum(len(name.encode()) + len(value) for name, value in self.annotations.items())
        if total > LIMIT_ANNOTATIONS:
            raise EnvelopeError(
                f"failed to validate annotations: total size of annotations is {total}, "
                f"which exceeds the max size of {LIMIT_ANNOTATIONS}"
            )

    def cache_key(self) -> bytes:
        """Under which the API server remembers the opened seed: a hash of everything in here."""
        parts = [struct.pack(">I", int(self.seed)), _prefixed(self.source), _prefixed(self.key_id.encode())]
        if self.annotations:
            parts.append(struct.pack(">I", len(self.annotations)))
            for name in sorted(self.annotations):
                parts += [_prefixed(name.encode()), _prefixed(self.annotations[name])]
        return hashlib.sha256(b"".join(parts)).digest()


def check_key_id(key_id: str) -> None:
    """A key_id has 1 to 1024 bytes.

    Raises:
        EnvelopeError: it has not.
    """
    size = len(key_id.encode())
    if size == 0:
        raise EnvelopeError("failed to validate key id: keyID is empty")
    if size > LIMIT_KEY_ID:
        raise EnvelopeError(
            f"failed to validate key id: keyID is {size} bytes, which exceeds the max size of {LIMIT_KEY_ID}"
        )


def key_id_hash(key_id: str) -> str:
    """How logs and metrics of the API server name a key_id."""
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}" if key_id else ""


def seal(seed: bytes, plaintext: bytes, path: bytes) -> bytes:
    """encryptedData of an object. path: its etcd key."""
    info, nonce = os.urandom(INFO), os.urandom(NONCE)
    return info + nonce + AESGCM(_derive(seed, info)).encrypt(nonce, plaintext, path)


def unseal(secret: bytes, data: bytes, path: bytes, *, seed: bool) -> bytes:
    """The plaintext of encryptedData.

    Raises:
        EnvelopeError: it was not sealed under this secret for this path.
    """
    head = INFO if seed else 0
    if len(data) < head + NONCE:
        raise EnvelopeError("the stored data was shorter than the required size")
    if len(secret) != SEED:
        raise EnvelopeError(f"invalid seed length {len(secret)} used for key generation")
    key = _derive(secret, data[:INFO]) if seed else secret
    try:
        return AESGCM(key).decrypt(data[head : head + NONCE], data[head + NONCE :], path)
    except InvalidTag:
        raise EnvelopeError("cipher: message authentication failed") from None


def encode(provider: str, sealed: Sealed, data: bytes) -> bytes:
    """The value that goes into etcd."""
    sealed.check()
    kind = pb.HKDF_SHA256_XNONCE_AES_GCM_SEED if sealed.seed else pb.AES_GCM_KEY
    stored = pb.EncryptedObject(
        encryptedData=data,
        keyID=sealed.key_id,
        encryptedDEKSource=sealed.source,
        annotations=dict(sealed.annotations),
        encryptedDEKSourceType=kind,
    )
    return prefix(provider) + stored.SerializeToString()


def decode(provider: str, value: bytes) -> tuple[Sealed, bytes]:
    """What lies in a value of this provider: how its seed was sealed, and encryptedData.

    Raises:
        EnvelopeError: another provider's, no protobuf, or a field that breaks a rule.
    """
    head = prefix(provider)
    if not value.startswith(head):
        raise EnvelopeError(f"the value does not begin with {head.decode()}")
    try:
        stored = pb.EncryptedObject.FromString(value[len(head) :])
    except DecodeError as error:
        raise EnvelopeError(f"the value is no EncryptedObject: {error}") from error
    if stored.encryptedDEKSourceType not in (pb.AES_GCM_KEY, pb.HKDF_SHA256_XNONCE_AES_GCM_SEED):
        raise EnvelopeError(f"unknown encryptedDEKSourceType: {stored.encryptedDEKSourceType}")
    if not stored.encryptedData:
        raise EnvelopeError("encrypted data is empty")
    seed = stored.encryptedDEKSourceType == pb.HKDF_SHA256_XNONCE_AES_GCM_SEED
    sealed = Sealed(stored.keyID, stored.encryptedDEKSource, dict(stored.annotations), seed)
    sealed.check()
    return sealed, stored.encryptedData


def prefix(provider: str) -> bytes:
    """With what every value of a provider begins."""
    return PREFIX + provider.encode() + b":"


def _derive(seed: bytes, info: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(seed)


def _prefixed(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
