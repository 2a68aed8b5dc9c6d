"""Every primitive against the vectors that were published for it."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plugins.kms import keyids, xaes


@pytest.mark.parametrize(
    ("key_byte", "aad", "expected"),
    [
        (0x01, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (0x03, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_xaes_c2sp_single_vectors(key_byte: int, aad: bytes, expected: str) -> None:
    """c2sp.org/XAES-256-GCM, "Test vectors": with and without a carry in the subkey."""
    key, nonce = bytes([key_byte]) * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX"
    sealed = xaes.encrypt(key, nonce, b"XAES-256-GCM", aad)
    assert sealed.hex() == expected
    assert xaes.decrypt(key, nonce, sealed, aad) == b"XAES-256-GCM"


def test_xaes_c2sp_accumulated_vectors() -> None:
    """c2sp.org/XAES-256-GCM, "Accumulated randomized tests", 10,000 iterations."""
    # More than any run needs: 56 bytes, and twice up to 256, for each iteration.
    stream = memoryview(hashlib.shake_128().digest(10_000 * 568))
    position = 0

    def take(size: int) -> bytes:
        nonlocal position
        position += size
        return bytes(stream[position - size : position])

    sums = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        sums.update(xaes.encrypt(key, nonce, plaintext, aad))
    assert sums.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.parametrize(("key_size", "nonce_size"), [(16, 24), (33, 24), (32, 12), (32, 25)])
def test_xaes_takes_only_its_sizes(key_size: int, nonce_size: int) -> None:
    with pytest.raises(ValueError, match="XAES-256-GCM takes"):
        xaes.encrypt(bytes(key_size), bytes(nonce_size), b"x", b"")


@pytest.mark.parametrize(
    ("secret", "salt", "info", "size", "expected"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_rfc_5869(secret: str, salt: str, info: str, size: int, expected: str) -> None:
    """RFC 5869, A.1 to A.3."""
    kdf = HKDF(SHA256(), length=size, salt=bytes.fromhex(salt), info=bytes.fromhex(info))
    assert kdf.derive(bytes.fromhex(secret)).hex() == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "028962f61b7bf89efc6b551f4667d983"),
        (16, "28a7023f452e8f82bd4bf28d8c37c35c"),
        (40, "aaf3d8f1de5640c232f5b169b9c911e6"),
        (64, "e1992190549f6ed5696a2c056c315410"),
    ],
)
def test_cmac_sp_800_38b(size: int, expected: str) -> None:
    """SP 800-38B, D.3: AES-256."""
    message = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    mac = CMAC(AES(bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")))
    mac.update(message[:size])
    assert mac.finalize().hex() == expected


def test_gcm_specification_case_16() -> None:
    """The Galois/Counter Mode of Operation, appendix B, test case 16."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert AESGCM(key).encrypt(bytes.fromhex("cafebabefacedbaddecaf888"), plaintext, aad).hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


def test_sha256_is_sha256() -> None:
    assert keyids.sha256(b"abc") == hashlib.sha256(b"abc").digest()
