"""How the API server follows a KMS plugin: Status again and again, and a new seed whenever the key_id changes.

Rules (encryptionconfig of 1.36): the result of a probe answers /readyz for 20 s, a bad one for 3 s. A version, once
seen, may not change. A healthz other than "ok" fails the probe, and *still* the key_id counts: rotation and the
extension of the write time run, so that such a plugin keeps writes going. A call that fails, or an invalid key_id,
stops the extension: writes end three minutes after the start of the last good probe. On a new key_id a seed is made
and encrypted; where Encrypt answers with another key_id than Status, the seed is thrown away, the old state stays, and
the probe has failed.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from plugins.lab import envelope
from plugins.lab.envelope import EnvelopeError, Sealed
from plugins.lab.errors import LabError
from plugins.lab.journal import Journal
from plugins.lab.kmsservice import KmsError, KmsService, Status
from plugins.lab.timings import ApiServerTimings

VERSIONS = ("v2", "v2beta1")


@dataclass(frozen=True)
class WriteState:
    """The seed that writes use. expires: when writes end unless a probe extends it, in the clock of the probe."""

    seed: bytes
    sealed: Sealed
    expires: float
    uid: str


class KmsProbe:
    """One provider's health and write state. `check()` is one probe; start() makes them by the clock."""

    def __init__(
        self,
        name: str,
        service: KmsService,
        journal: Journal,
        timings: ApiServerTimings,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._service = service
        self._journal = journal
        self._timings = timings
        self._now = now
        self._state: WriteState | None = None
        self._version = ""
        self._last: tuple[float, float, LabError | None] | None = None  # (when, valid for, error)
        self._guard = threading.Lock()  # held over the calls, as in the API server: one probe at a time
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Probe once, and go on in the background: every 60 s, after a failure every 10 s."""
        failed = self.prime()
        self._thread = threading.Thread(target=self._run, args=(failed,), name=f"kms probe {self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the background probes."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def check(self) -> None:
        """The health of the provider, from a call or from the last result.

        Raises:
            LabError: it is not healthy; says why.
        """
        with self._guard:
            if self._last is not None and self._now() - self._last[0] < self._last[1]:
                if self._last[2]:
                    raise self._last[2]
                return
            error = self._probe()
            ttl = self._timings.unready_ttl if error else self._timings.ready_ttl
            self._last = (self._now(), ttl, error)
        self._journal.record("kms_probe", self.name, error=str(error) if error else "")
        if error:
            raise error

    def prime(self) -> bool:
        """One probe; whether it failed, which stops nobody."""
        try:
            self.check()
        except LabError:
            return True
        return False

    def state(self) -> WriteState:
        """What reads compare with and writes use; reads need it too, whatever they read.

        Raises:
            LabError: there was no successful probe yet.
        """
        if self._state is None:
            raise LabError("got unexpected nil transformer")
        return self._state

    def write_state(self) -> WriteState:
        """The same for a write.

        Raises:
            LabError: the plugin has not been healthy for too long.
        """
        state = self.state()
        if self._now() > state.expires:
            digest = envelope.key_id_hash(state.sealed.key_id)
            raise LabError(f'encryptedDEKSource with keyID hash "{digest}" expired')
        return state

    def _run(self, failed: bool) -> None:
        while not self._stopped.wait(self._timings.negative if failed else self._timings.positive):
            failed = self.prime()

    def _probe(self) -> LabError | None:
        try:
            status = self._service.status()
        except KmsError as error:
            return LabError(
                f"failed to perform status section of the healthz check for KMS Provider {self.name}, error: {error}"
            )
        errors = [*self._status_errors(status), *self._follow(status.key_id)]
        if not errors:
            return None
        return LabError(f"kmsv2 Provider {self.name} is not healthy, error: [{', '.join(errors)}]")

    def _status_errors(self, status: Status) -> list[str]:
        errors = []
        if status.healthz != "ok":
            errors.append(f"got unexpected healthz status: {status.healthz}")
        if status.version not in VERSIONS:
            return [*errors, f"expected KMSv2 API version v2, got {status.version}"]
        self._version = self._version or status.version
        if status.version != self._version:
            errors.append(
                "KMSv2 API version should not change after the initial status response version "
                f"{self._version}, got {status.version}"
            )
        return errors

    def _follow(self, key_id: str) -> list[str]:
        """Extend the write time, or rotate to a new seed."""
        try:
            envelope.check_key_id(key_id)
        except EnvelopeError as error:
            return [f'got invalid KMSv2 KeyID hash "{envelope.key_id_hash(key_id)}": {error}']
        expires = self._now() + self._timings.write_ttl  # from before the call: it is an upper bound
        if self._state is not None and self._state.sealed.key_id == key_id:
            self._state = replace(self._state, expires=expires)
            return []
        return self._rotate(key_id, expires)

    def _rotate(self, key_id: str, expires: float) -> list[str]:
        seed, uid = os.urandom(envelope.SEED), str(uuid.uuid4())
        answered = ""
        try:
            sealed = self._service.encrypt(seed, uid)
            answered = sealed.key_id
            sealed.check()
        except (KmsError, EnvelopeError) as error:
            return [self._rotation_failed(str(error), key_id, answered)]
        if answered != key_id:
            return [self._rotation_failed("<nil>", key_id, answered)]
        self._state = WriteState(seed, sealed, expires, uid)
        self._journal.record("kms_rotated", self.name, key_id=key_id, uid=uid)
        return []

    @staticmethod
    def _rotation_failed(why: str, status: str, answered: str) -> str:
        return (
            f'failed to rotate DEK, errGen={why}, statusKeyIDHash="{envelope.key_id_hash(status)}", '
            f'encryptKeyIDHash="{envelope.key_id_hash(answered)}"'
        )
