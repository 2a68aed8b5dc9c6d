"""What the daemon makes is opened by code that shares nothing with it: the `openssl` program, and Go's library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.api.kms.v2 import kms_pb2 as pb
from tests.contract.kms import openssl_decode
from tests.contract.kms.daemon_kit import KmsDaemon

SEED = os.urandom(32)
GO = Path(__file__).parent / "decode" / "main.go"

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def sealed(kms: KmsDaemon) -> list[pb.EncryptResponse]:
    """Envelopes under two keys."""
    client = kms.start()
    before = client.encrypt(SEED)
    kms.rotate()
    kms.took(2)
    return [before, client.encrypt(SEED)]


@needs_openssl
def test_the_openssl_program_opens_it(kms: KmsDaemon, sealed: list[pb.EncryptResponse]) -> None:
    for one in sealed:
        assert openssl_decode.decode(kms.keyring, one.key_id, one.ciphertext) == SEED


@needs_openssl
def test_the_openssl_program_sees_a_change_too(kms: KmsDaemon, sealed: list[pb.EncryptResponse]) -> None:
    changed = bytearray(sealed[0].ciphertext)
    changed[70] ^= 1
    with pytest.raises(AssertionError):
        openssl_decode.decode(kms.keyring, sealed[0].key_id, bytes(changed))


def test_go_opens_it(kms: KmsDaemon, sealed: list[pb.EncryptResponse], short_tmp: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is optional here: the openssl program checks the same")
    program = short_tmp / "decode"
    subprocess.run([go, "build", "-o", program, GO], check=True, env={**os.environ, "GOTOOLCHAIN": "local"})
    for one in sealed:
        argv = [str(program), str(kms.keyring), one.key_id]
        done = subprocess.run(argv, input=one.ciphertext, capture_output=True)
        assert (done.stdout, done.stderr) == (SEED, b"")
        changed = one.ciphertext[:-1] + bytes([one.ciphertext[-1] ^ 1])
        assert subprocess.run(argv, input=changed, capture_output=True).returncode == 1
