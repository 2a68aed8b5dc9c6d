"""A fake KMS plugin, a clock of the test's own, and an API server between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plugins.lab.apiserver import ApiServer
from plugins.lab.encryption import KmsProvider, Provider
from tests.contract.lab.fake_kms import FakeKms
from tests.contract.lab.fakes import Servers


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class World:
    """A fake plugin, a clock and an API server between them."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.folder = folder
        self.kms = FakeKms()
        self.clock = Clock()
        servers.serve(folder / "kms.sock", self.kms.add)

    def provider(self, name: str = "p", timeout: float = 5.0, socket: str = "kms.sock") -> KmsProvider:
        return KmsProvider(name, f"unix://{self.folder / socket}", timeout)

    def server(self, *providers: Provider) -> ApiServer:
        return ApiServer(self.folder / "etcd.sqlite", providers or [self.provider()], now=self.clock, background=False)


def secret(name: str = "password", value: str = "aHVudGVyMg==") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"password": value},
    }


def next_probe(world: World, api: ApiServer) -> dict[str, str]:
    """The time of the last result is over; /readyz asks again."""
    world.clock.pass_(21)
    return api.readyz()
