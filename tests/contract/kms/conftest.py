"""Daemons for the contract tests of `nodeplug kms`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.kms import daemon_kit


@pytest.fixture
def kms(short_tmp: Path) -> Iterator[daemon_kit.KmsDaemon]:
    """A KMS daemon with a keyring of one key, not started yet."""
    with daemon_kit.daemon(short_tmp) as made:
        yield made
