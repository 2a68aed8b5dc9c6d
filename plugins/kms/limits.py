"""What the KMS v2 contract allows, and the checks that everything from a request passes before it is used.

Source: the limits that kube-apiserver enforces (apiserver/pkg/storage/value/encrypt/envelope/kmsv2, "validate...").
The API server takes 1024 bytes where its proto says "less than 1 kB": 1023 satisfies both readings. A request comes
from whoever can write to etcd, through the API server: every field of it is hostile.
"""

from __future__ import annotations

from collections.abc import Collection

from plugins.core.errors import InvalidArgument

API_VERSION = "v2"
KEY_ID_MAX = 1023
"""Bytes of a key_id; it has one at least."""
CIPHERTEXT_MAX = 1023
"""Bytes of a ciphertext; it has one at least."""
UID_MAX = 1023
"""Bytes of a request's uid, which the API server makes a random UUID of 36."""


def check_decrypt(ciphertext: bytes, key_id: str, uid: str, annotations: Collection[str]) -> None:
    """Raises InvalidArgument where a Decrypt request cannot come from an Encrypt of ours; nothing was touched."""
    _size("ciphertext", len(ciphertext), 1, CIPHERTEXT_MAX)
    _size("key_id", len(key_id.encode()), 1, KEY_ID_MAX)
    _size("uid", len(uid.encode()), 0, UID_MAX)
    if annotations:
        raise InvalidArgument(f"{len(annotations)} annotations came with the ciphertext; this plugin makes none")


def check_encrypt(plaintext: bytes, uid: str, most: int) -> None:
    """Raises InvalidArgument where a plaintext is empty, or has over `most` bytes: its envelope would be too long."""
    _size("plaintext", len(plaintext), 1, most)
    _size("uid", len(uid.encode()), 0, UID_MAX)


def _size(name: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        raise InvalidArgument(f"{name} has {size} bytes; expected {least} to {most}")
