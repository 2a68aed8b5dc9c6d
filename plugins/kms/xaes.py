"""XAES-256-GCM: AES-256-GCM under a key derived for each nonce, so that 24-byte nonces may be random for ever.

Source: https://c2sp.org/XAES-256-GCM. Plain AES-GCM with random 12-byte nonces ends at 2^32 messages over all
instances that share a key (SP 800-38D, 8.3), which nobody can count across restarts and nodes. The derivation is
SP 800-108 in counter mode over AES-CMAC; both primitives are the library's.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

KEY_SIZE = 32
NONCE_SIZE = 24
TAG_SIZE = 16

__all__ = ["KEY_SIZE", "NONCE_SIZE", "TAG_SIZE", "InvalidTag", "decrypt", "encrypt"]


def encrypt(key: bytes | memoryview, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Ciphertext and tag. The nonce has 24 bytes from a random source and is used once."""
    return _cipher(key, nonce).encrypt(nonce[12:], plaintext, aad)


def decrypt(key: bytes | memoryview, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """The plaintext of a ciphertext with its tag.

    Raises:
        InvalidTag: key, nonce, ciphertext or aad is not what it was.
    """
    return _cipher(key, nonce).decrypt(nonce[12:], ciphertext, aad)


def _cipher(key: bytes | memoryview, nonce: bytes) -> AESGCM:
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise ValueError(f"XAES-256-GCM takes a key of {KEY_SIZE} and a nonce of {NONCE_SIZE} bytes")
    return AESGCM(_block(key, 1, nonce) + _block(key, 2, nonce))


def _block(key: bytes | memoryview, counter: int, nonce: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(bytes((0, counter)) + b"X\0" + nonce[:12])
    return mac.finalize()
