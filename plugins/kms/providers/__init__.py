"""Where keys come from: one module per kind of holder, loaded only where configured."""

from __future__ import annotations

from typing import Protocol

from plugins.kms.keyring import Keyring


class Provider(Protocol):
    """A source of keyrings."""

    def load(self) -> Keyring:
        """Read and check everything; raises ConfigError with what is wrong and what to do."""

    def identity(self) -> object:
        """Cheap to ask and equal as long as nothing changed since the last load."""
