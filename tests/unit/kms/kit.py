"""What the tests of the KMS domain share: a clock, documents, keyrings."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

from plugins.kms import document
from plugins.kms.document import Document
from plugins.kms.envelope import DERIVED_SIZE, Sealer
from plugins.kms.memory import SecretMemory

NOW = datetime.datetime(2026, 11, 21, 6, 0, tzinfo=datetime.UTC)
FORMAT_PAGE = Path(__file__).resolve().parents[3] / "docs" / "kms-envelope.md"


def vectors() -> list[dict[str, Any]]:
    """The test vectors of the format, from the page that defines it."""
    block = re.search(r"```json\n(.*?)```", FORMAT_PAGE.read_text(), re.DOTALL)
    assert block is not None
    found: list[dict[str, Any]] = json.loads(block.group(1))
    return found


def made(cluster: str = "c1", provider: str = "nodeplug") -> Document:
    """A keyring with one active key."""
    return document.create(cluster, provider, NOW)


def sealer(secret: bytes, cluster: str = "c1", provider: str = "nodeplug", key_id: str = "np1.k") -> Sealer:
    """A sealer with memory of its own."""
    return Sealer(secret, cluster=cluster, provider=provider, key_id=key_id, memory=SecretMemory(DERIVED_SIZE))


def edited(doc: Document, **changes: object) -> bytes:
    """The document as it would lie in a file, with fields of its first key changed by hand; None removes one."""
    data = json.loads(document.serialise(doc))
    for name, value in changes.items():
        data["keys"][0][name] = value
    return json.dumps(data).encode()
