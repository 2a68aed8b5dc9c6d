"""The KMS part: a Secret that is readable through the API server and nowhere else."""

from __future__ import annotations

import base64
from typing import Any

from plugins.demo.world import READY, World
from plugins.lab import envelope
from plugins.lab.apiserver import ApiServer
from plugins.lab.encryption import KmsProvider
from plugins.lab.errors import LabError
from plugins.lab.processes import Process
from plugins.lab.timings import ApiServerTimings

PART = "kms"
PROVIDER = "nodeplug"
_FASTER = 1 / 50  # the API server looks for a new key every 60 s; here every 1.2 s
_NAMESPACE = "default"


class SecretPart:
    """Encrypt, look at the stored bytes, restart the plugin, rotate the key, read old and new."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.socket = world.root / "kms.sock"
        self._keyring = world.root / "keyring.json"
        self.process: Process = world.supervisor.daemon(
            "kms",
            kubelet_dir=world.kubelet.root,
            state_dir=world.root / "kms",
            socket=self.socket,
            settings=[f"keyring={self._keyring}"],
        )
        self._api = ApiServer(
            world.root / "etcd.sqlite",
            [KmsProvider(PROVIDER, f"unix://{self.socket}")],
            timings=ApiServerTimings().scaled(_FASTER),
            journal=world.kubelet.journal,
        )

    def prepare(self) -> None:
        """Make a keyring: the daemon does not start without one, and never makes one by itself."""
        self._world.tool("kms", "init", "--keyring", str(self._keyring), "--provider", PROVIDER)

    def run(self) -> None:
        """All steps; raises StepFailed."""
        try:
            self._ready()
            first = self._stored("before", "correct horse battery staple")
            self._restarted()
            self._rotated(first)
            self._read()
        finally:
            self._api.stop()

    def _ready(self) -> None:
        with self._world.report.step(PART, "serve the API server") as step:
            self.process.wait_serving(self.socket, timeout=READY)
            self._api.start()
            self._check_ready()
            step.result = "Status ok, a new seed encrypted by the plugin"

    def _stored(self, name: str, value: str) -> str:
        """Store a Secret; returns the key_id of what lies in etcd."""
        with self._world.report.step(PART, f"store the Secret {name!r}") as step:
            self._api.create(_secret(name, value))
            raw = self._api.raw(_path(name))
            if not raw.startswith(envelope.PREFIX) or value.encode() in raw:
                raise LabError(f"the stored bytes are not encrypted: {raw[:60]!r}")
            sealed, _ = envelope.decode(PROVIDER, raw)
            step.result = f"{len(raw)} bytes in etcd, beginning {_beginning(raw)}"
            step.facts = {"bytes": len(raw), "begins": raw[:15].decode(), "key_id": sealed.key_id}
            return sealed.key_id

    def _restarted(self) -> None:
        with self._world.report.step(PART, "restart plugin and API server") as step:
            self.process.stop()
            self._world.start(self.process)
            self.process.wait_serving(self.socket, timeout=READY)
            self._api.restart()
            self._check_ready()
            self._expect("before", "correct horse battery staple")
            step.result = "the Secret is read again, its seed decrypted by the plugin"

    def _rotated(self, first: str) -> None:
        with self._world.report.step(PART, "rotate the key") as step:
            journal = self._world.kubelet.journal
            mark = journal.mark()
            self._world.tool("kms", "rotate", "--keyring", str(self._keyring))
            event = journal.wait("kms_rotated", PROVIDER, since=mark, timeout=READY)
            if event["key_id"] == first:
                raise LabError("the key_id is still the old one")
            step.result = f"{_brief(first)} -> {_brief(event['key_id'])}, seen by the API server"
            step.facts = {"old_key_id": first, "new_key_id": event["key_id"]}
        second = self._stored("after", "Tr0ub4dor&3")
        if second == first:
            raise AssertionError("a write after the rotation used the old key")

    def _read(self) -> None:
        with self._world.report.step(PART, "read old and new values") as step:
            self._expect("before", "correct horse battery staple")
            self._expect("after", "Tr0ub4dor&3")
            migrated = self._api.migrate()
            self._expect("before", "correct horse battery staple")
            step.result = f"both readable; a storage migration rewrote {migrated.rewritten} of {migrated.seen}"
            step.facts = {"seen": migrated.seen, "rewritten": migrated.rewritten}

    def _check_ready(self) -> None:
        if errors := self._api.readyz():
            raise LabError("; ".join(errors.values()))

    def _expect(self, name: str, value: str) -> None:
        found = self._api.get("Secret", _NAMESPACE, name)["data"]["password"]
        if base64.b64decode(found).decode() != value:
            raise LabError(f"the Secret {name!r} is not what was written")


def _secret(name: str, value: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "type": "Opaque",
        "stringData": {"password": value},
    }


def _path(name: str) -> str:
    return f"/registry/secrets/{_NAMESPACE}/{name}"


def _beginning(raw: bytes) -> str:
    head = len(envelope.prefix(PROVIDER))
    return f"{raw[:head].decode()} {raw[head : head + 6].hex(' ')} ..."


def _brief(key_id: str) -> str:
    return key_id if len(key_id) <= 16 else f"{key_id[:16]}..."
