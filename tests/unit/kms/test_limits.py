"""The contract's limits, at their edges."""

from __future__ import annotations

import pytest

from plugins.core.errors import InvalidArgument
from plugins.kms import limits


@pytest.mark.parametrize(
    ("ciphertext", "key_id", "uid", "annotations", "named"),
    [
        (b"", "k", "u", (), "ciphertext has 0 bytes"),
        (bytes(1024), "k", "u", (), "ciphertext has 1024 bytes"),
        (b"c", "", "u", (), "key_id has 0 bytes"),
        (b"c", "k" * 1024, "u", (), "key_id has 1024 bytes"),
        (b"c", "\N{EURO SIGN}" * 342, "u", (), "key_id has 1026 bytes"),
        (b"c", "k", "u" * 1024, (), "uid has 1024 bytes"),
        (b"c", "k", "u", ("example.com/x",), "1 annotations"),
    ],
)
def test_decrypt_refuses(ciphertext: bytes, key_id: str, uid: str, annotations: tuple[str, ...], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        limits.check_decrypt(ciphertext, key_id, uid, annotations)


def test_decrypt_takes_the_edges() -> None:
    limits.check_decrypt(bytes(1023), "k" * 1023, "u" * 1023, ())
    limits.check_decrypt(b"c", "k", "", {})


@pytest.mark.parametrize(("plaintext", "uid"), [(b"", "u"), (bytes(942), "u"), (b"x", "u" * 1024)])
def test_encrypt_refuses(plaintext: bytes, uid: str) -> None:
    with pytest.raises(InvalidArgument):
        limits.check_encrypt(plaintext, uid, 941)


def test_encrypt_takes_the_edges() -> None:
    limits.check_encrypt(b"x", "", 941)
    limits.check_encrypt(bytes(941), "u" * 1023, 941)
