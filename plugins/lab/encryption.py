"""The providers of an EncryptionConfiguration, and the rules for their list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugins.lab.errors import LabError
from plugins.lab.kmsservice import socket_path


@dataclass(frozen=True)
class KmsProvider:
    """A `kms` entry, version v2. endpoint: "unix:///path"; timeout: seconds of each call."""

    name: str
    endpoint: str
    timeout: float = 3.0


@dataclass(frozen=True)
class IdentityProvider:
    """An `identity` entry: what it writes is not encrypted."""


Provider = KmsProvider | IdentityProvider


def check(providers: Sequence[Provider]) -> None:
    """The API server's validation.

    Raises:
        LabError: which rule is broken.
    """
    if not providers:
        raise LabError("at least one provider is required")
    plugins = [p for p in providers if isinstance(p, KmsProvider)]
    for plugin in plugins:
        if not plugin.name or ":" in plugin.name:
            raise LabError(f"a provider's name must not be empty and has no colon: {plugin.name!r}")
        if sum(p.name == plugin.name for p in plugins) > 1:
            raise LabError(f"duplicate provider name {plugin.name!r}")
        if plugin.timeout <= 0:
            raise LabError(f"provider {plugin.name!r}: the timeout must be greater than zero")
        socket_path(plugin.endpoint)
