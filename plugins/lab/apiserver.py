"""An API server's storage: objects, encrypted on their way into etcd by a KMS v2 plugin, and read back.

with ApiServer(folder / "etcd.sqlite", [KmsProvider("kms", f"unix://{socket}")]) as api:
    api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "b"}, "data": {}})
    api.raw("/registry/secrets/b/a")       # b"k8s:enc:kms:v2:kms:..."
    api.migrate()                          # rewrites what is stale, as a storage migration does
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from plugins.lab import objects
from plugins.lab.encryption import IdentityProvider, Provider, check
from plugins.lab.errors import LabError
from plugins.lab.etcd import Conflict, Etcd, KeyValue
from plugins.lab.journal import Journal
from plugins.lab.kmsprobe import KmsProbe
from plugins.lab.kmsservice import KmsService
from plugins.lab.objects import Manifest
from plugins.lab.timings import ApiServerTimings
from plugins.lab.transformer import Identity, KmsTransformer, Providers, Transformer


@dataclass(frozen=True)
class Migration:
    """What a storage migration saw, and how many objects it had to write anew."""

    seen: int
    rewritten: int


class ApiServer:
    """Create, read, update, delete and list objects of the encrypted resources. Each start makes a new seed."""

    def __init__(
        self,
        store: Path,
        providers: Sequence[Provider],
        *,
        resources: Sequence[str] = ("secrets",),
        timings: ApiServerTimings | None = None,
        journal: Journal | None = None,
        now: Callable[[], float] = time.monotonic,
        background: bool = True,
    ) -> None:
        """
        Args:
            store: the file that stands for etcd; it outlives the server.
            providers: in the order of the configuration; the first one writes.
            resources: the plural names that are encrypted; others are stored as they are.
            now: the clock of time-outs, seconds.
            background: whether probes come by themselves; a test with a clock of its own calls `readyz` instead.
        """
        check(providers)
        self._store = store
        self._providers = tuple(providers)
        self._resources = frozenset(resources)
        self._timings = timings or ApiServerTimings()
        self.journal = journal or Journal()
        self._now = now
        self._background = background
        self._life: _Life | None = None

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Connect, and probe every provider once; one that does not answer is no reason not to start."""
        self._life = _Life(self._store, self._providers, self._timings, self.journal, self._now, self._background)

    def stop(self) -> None:
        """Forget every seed, close everything. May be repeated."""
        if self._life:
            life, self._life = self._life, None
            life.close()

    def restart(self) -> None:
        """A new process: one Encrypt for a new seed, one Decrypt for every seed that is read again."""
        self.stop()
        self.start()

    def readyz(self) -> dict[str, str]:
        """What /readyz?verbose says of the kms-providers: name -> error; empty: ready."""
        errors = {}
        for probe in self._alive().probes:
            try:
                probe.check()
            except LabError as error:
                errors[probe.name] = str(error)
        return errors

    def create(self, manifest: Manifest) -> dict[str, Any]:
        """Write a new object; returns it as stored.

        Raises:
            LabError: it exists, or the provider cannot write now.
        """
        metadata = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **manifest["metadata"],
        }
        key = key_of(manifest)
        data = objects.encode({**manifest, "metadata": metadata})
        return self._returned(key, self._alive().etcd.put(key, self._encrypt(key, data), expected=0))

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Read an object."""
        key = path_of(kind, namespace, name)
        return self._returned(key, self._stored(key))

    def update(self, manifest: Manifest) -> dict[str, Any]:
        """Write an object anew. Where nothing changed and what is stored is not stale, nothing is written."""
        key = key_of(manifest)
        stored = self._stored(key)
        version = manifest["metadata"].get("resourceVersion", str(stored.mod_revision))
        if version != str(stored.mod_revision):
            raise Conflict(f"{key}: the object has been modified; please apply your changes to the latest version")
        old, stale = self._decrypt(key, stored.value)
        metadata = {**_kept(old), **{k: v for k, v in manifest["metadata"].items() if k != "resourceVersion"}}
        data = objects.encode({**manifest, "metadata": metadata})
        if data != old or stale:
            stored = self._alive().etcd.put(key, self._encrypt(key, data), expected=stored.mod_revision)
        return self._returned(key, stored)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object. It is read first, so one that cannot be decrypted cannot be deleted either."""
        key = path_of(kind, namespace, name)
        self._decrypt(key, self._stored(key).value)
        self._alive().etcd.delete(key)

    def list(self, kind: str, namespace: str = "") -> list[dict[str, Any]]:
        """All objects of a kind; a single one that cannot be decrypted fails the whole list."""
        stored = self._alive().etcd.range(path_of(kind, namespace, ""))
        return [self._returned(one.key, one) for one in stored]

    def migrate(self, kind: str = "Secret") -> Migration:
        """Update every object with itself: what is stale is written under the current key."""
        before = {one.key: one.mod_revision for one in self._alive().etcd.range(path_of(kind, "", ""))}
        after = [self.update(objects.decode(self._decrypt(key, self._stored(key).value)[0])) for key in before]
        changed = [o for o in after if o["metadata"]["resourceVersion"] != str(before[key_of(o)])]
        return Migration(len(after), len(changed))

    def raw(self, key: str) -> bytes:
        """The bytes in etcd."""
        return self._stored(key).value

    def _stored(self, key: str) -> KeyValue:
        found = self._alive().etcd.get(key)
        if found is None:
            raise LabError(f"{key} not found")
        return found

    def _returned(self, key: str, stored: KeyValue) -> dict[str, Any]:
        manifest = objects.decode(self._decrypt(key, stored.value)[0])
        manifest["metadata"] = {**manifest["metadata"], "resourceVersion": str(stored.mod_revision)}
        return manifest

    def _encrypt(self, key: str, data: bytes) -> bytes:
        return self._alive().providers.to_storage(key, data) if self._covers(key) else data

    def _decrypt(self, key: str, value: bytes) -> tuple[bytes, bool]:
        return self._alive().providers.from_storage(key, value) if self._covers(key) else (value, False)

    def _covers(self, key: str) -> bool:
        return key.split("/")[2] in self._resources

    def _alive(self) -> _Life:
        if self._life is None:
            raise LabError("the API server is not running")
        return self._life


class _Life:
    """What an API server process holds in memory."""

    def __init__(
        self,
        store: Path,
        providers: Sequence[Provider],
        timings: ApiServerTimings,
        journal: Journal,
        now: Callable[[], float],
        background: bool,
    ) -> None:
        self.etcd = Etcd(store)
        self.probes: list[KmsProbe] = []
        self._services: list[KmsService] = []
        transformers: list[Transformer] = []
        for provider in providers:
            if isinstance(provider, IdentityProvider):
                transformers.append(Identity())
                continue
            service = KmsService(provider.endpoint, provider.timeout)
            probe = KmsProbe(provider.name, service, journal, timings, now)
            self._services.append(service)
            self.probes.append(probe)
            transformers.append(KmsTransformer(provider.name, service, probe, timings.cache_ttl, now))
        self.providers = Providers(transformers)
        for probe in self.probes:
            if background:
                probe.start()
            else:
                probe.prime()

    def close(self) -> None:
        for probe in self.probes:
            probe.stop()
        for service in self._services:
            service.close()
        self.etcd.close()


def key_of(manifest: Manifest) -> str:
    """The etcd key of an object, which is also the additional data of its encryption."""
    return path_of(manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])


def path_of(kind: str, namespace: str, name: str) -> str:
    """/registry/<resource>/<namespace>/<name>, or the beginning of it that is known."""
    parts = [part for part in (namespace, name) if part]
    return "/".join(["", "registry", f"{kind.lower()}s", *parts]) + ("" if name else "/")


def _kept(data: bytes) -> dict[str, Any]:
    """What an update may not change."""
    metadata = objects.decode(data)["metadata"]
    return {name: metadata[name] for name in ("uid", "creationTimestamp") if name in metadata}
