"""Opens an envelope of format 1 with the `openssl` program, written from docs/kms-envelope.md alone.

Every AES block and every hash is computed by that program (the system's OpenSSL, another copy than the one inside
the `cryptography` wheel). What it does not offer on a command line, GHASH, is the ten lines of `_ghash`.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

_PREFIX = b"nodeplug.internal/kms/"
_REDUCTION = 0xE1 << 120


def decode(keyring: Path, key_id: str, envelope: bytes) -> bytes:
    """The plaintext; AssertionError where anything is not as documented."""
    ring = json.loads(keyring.read_text())
    key = next(key for key in ring["keys"] if key["key_id"] == key_id)
    secret = base64.b64decode(key["secret"])
    assert _key_id(ring, key, secret) == key_id

    assert envelope[:2] == b"\xe1\x01"
    assert envelope[2:10] == _sha256(_join(_PREFIX + b"slot/v1", key_id.encode()))[:8]
    names = (ring["cluster"].encode(), ring["provider"].encode(), key_id.encode())
    context = _join(_PREFIX + b"envelope/v1", envelope[:2], *names)
    derived = _hkdf(secret, context, 64)
    assert envelope[34:66] == derived[32:]
    return _xaes(derived[:32], envelope[10:34], envelope[66:-16], envelope[-16:], context)


def _key_id(ring: dict[str, str], key: dict[str, int], secret: bytes) -> str:
    numbers = key["version"].to_bytes(4, "big"), key["epoch"].to_bytes(4, "big")
    fingerprint = _hkdf(secret, _PREFIX + b"fingerprint/v1", 32)
    parts = (_PREFIX + b"key-id/v1", ring["cluster"].encode(), bytes.fromhex(ring["lineage"]), fingerprint, *numbers)
    return "np1." + base64.urlsafe_b64encode(_sha256(_join(*parts))).rstrip(b"=").decode()


def _join(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _xaes(key: bytes, nonce: bytes, body: bytes, tag: bytes, aad: bytes) -> bytes:
    inner = b"".join(_cmac(key, bytes((0, i)) + b"X\0" + nonce[:12]) for i in (1, 2))
    start = nonce[12:] + b"\0\0\0\1"
    hashed = _ghash(_block(inner, bytes(16)), aad, body)
    assert tag == bytes(a ^ b for a, b in zip(_block(inner, start), hashed, strict=True))
    return _openssl(["enc", "-d", "-aes-256-ctr", "-K", inner.hex(), "-iv", (start[:-1] + b"\2").hex()], body)


def _ghash(subkey: bytes, aad: bytes, body: bytes) -> bytes:
    lengths = (len(aad) * 8).to_bytes(8, "big") + (len(body) * 8).to_bytes(8, "big")
    data = aad + bytes(-len(aad) % 16) + body + bytes(-len(body) % 16) + lengths
    total = 0
    for start in range(0, len(data), 16):
        total = _multiply(total ^ int.from_bytes(data[start : start + 16], "big"), int.from_bytes(subkey, "big"))
    return total.to_bytes(16, "big")


def _multiply(x: int, y: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        product ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (_REDUCTION if y & 1 else 0)
    return product


def _block(key: bytes, block: bytes) -> bytes:
    return _openssl(["enc", "-aes-256-ecb", "-nopad", "-K", key.hex()], block)


def _cmac(key: bytes, message: bytes) -> bytes:
    options = ["-cipher", "AES-256-CBC", "-macopt", f"hexkey:{key.hex()}", "-binary", "-in", "-"]
    return _openssl(["mac", *options, "CMAC"], message)


def _hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    options = ["digest:SHA256", f"hexkey:{secret.hex()}", f"hexinfo:{info.hex()}"]
    kdf = [part for option in options for part in ("-kdfopt", option)]
    return _openssl(["kdf", "-keylen", str(size), "-binary", *kdf, "HKDF"], b"")


def _sha256(data: bytes) -> bytes:
    return _openssl(["dgst", "-sha256", "-binary"], data)


def _openssl(arguments: list[str], data: bytes) -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout
