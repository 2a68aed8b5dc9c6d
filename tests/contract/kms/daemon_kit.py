"""The real KMS daemon as a process, and the calls of an API server on its socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc
from plugins.kms import observe
from plugins.kms.announce import OBSERVE

ROOT = Path(__file__).resolve().parents[3]
LOOK = ((OBSERVE, "1"),)
UNPRIVILEGED = 65532
# A connection each, as separate clients have, and no second of back-off while a daemon starts.
_OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
)


def as_user(uid: int) -> list[str]:
    """Runs what follows as that user and group, with no other groups and no capabilities."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


class Client:
    """One API server's connection."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self.stub = rpc.KeyManagementServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def look(self) -> pb.StatusResponse:
        """Status without announcing, when the daemon answers; the test's way to wait for it."""
        return self.stub.Status(pb.StatusRequest(), metadata=LOOK, wait_for_ready=True, timeout=20)

    def status(self) -> pb.StatusResponse:
        return self.stub.Status(pb.StatusRequest(), timeout=10)

    def encrypt(self, seed: bytes) -> pb.EncryptResponse:
        return self.stub.Encrypt(pb.EncryptRequest(plaintext=seed, uid="6f2b7a1e-test"), timeout=10)

    def decrypt(self, sealed: pb.EncryptResponse) -> bytes:
        request = pb.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="6f2b7a1e-test")
        return self.stub.Decrypt(request, timeout=10).plaintext

    def code(self, request: pb.DecryptRequest | pb.EncryptRequest) -> grpc.StatusCode:
        """The status code of a call that must fail."""
        try:
            if isinstance(request, pb.DecryptRequest):
                self.stub.Decrypt(request, timeout=10)
            else:
                self.stub.Encrypt(request, timeout=10)
        except grpc.RpcError as error:
            return error.code()
        raise AssertionError("the call was served")


class KmsDaemon:
    """`nodeplug kms serve` below a folder of its own."""

    def __init__(self, root: Path, *, uid: int = 0) -> None:
        """uid: the user that it runs as, when this is not our own."""
        self.keyring = root / "keys" / "keyring.json"
        self.socket = root / "run" / "kms.sock"
        self.log_file = root / "log"
        self._state = root / "state"
        self._prefix = as_user(uid) if uid else []
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []
        for folder in (self.socket.parent, self._state):
            folder.mkdir()
            if uid:
                os.chown(folder, uid, uid)
        tool("init", "--keyring", str(self.keyring), *(["--owner", f"{uid}:{uid}"] if uid else []))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *extra: str) -> Client:
        """Start it and wait until it answers."""
        self._process = self._serve(*extra)
        client = self.client()
        try:
            client.look()
        except grpc.RpcError as error:
            raise AssertionError(f"the daemon does not answer: {error}\n{self.log_file.read_text()}") from error
        return client

    def upgrade(self) -> None:
        """Start another process that takes over, and end the old one when it has."""
        old, self._process = self._process, self._serve()
        assert old is not None
        try:
            while not any(line["message"].startswith("the new process is ready") for line in self.log()):
                assert self._process.poll() is None, self.log_file.read_text()
        finally:
            old.send_signal(signal.SIGTERM)
            assert old.wait(30) == 0

    def _serve(self, *extra: str) -> subprocess.Popen[bytes]:
        where = ["--state-dir", str(self._state), "--socket", str(self.socket), "--set", f"keyring={self.keyring}"]
        argv = [*self._prefix, sys.executable, "-m", "plugins", "kms", "serve", *where, *extra]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log)

    def client(self) -> Client:
        """A connection of its own."""
        self._clients.append(Client(self.socket))
        return self._clients[-1]

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(30)

    def close(self) -> None:
        """Whatever became of it: nothing is left."""
        for client in self._clients:
            client.close()
        if self._process is not None:
            self.end(signal.SIGKILL)

    def log(self) -> list[dict[str, Any]]:
        """Every line that it logged."""
        whole = self.log_file.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def generation(self) -> int:
        """Of the keyring in force."""
        generation = observe.look(self.socket, 10).generation
        assert generation is not None
        return generation

    def took(self, generation: int) -> None:
        """Return when the keyring in force has that generation."""
        while self.generation() != generation:
            pass

    def rotate(self, *options: str) -> str:
        """Rotate by the command; returns the new active key_id."""
        tool("rotate", "--keyring", str(self.keyring), *options)
        return active(self.keyring)


@contextlib.contextmanager
def daemon(root: Path, *, uid: int = 0) -> Iterator[KmsDaemon]:
    """A daemon that is gone at the end."""
    made = KmsDaemon(root, uid=uid)
    try:
        yield made
    finally:
        made.close()


def run(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """`nodeplug kms` with these arguments, to its end."""
    argv = [*prefix, sys.executable, "-m", "plugins", "kms", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)


def tool(*arguments: str) -> str:
    """The same, where it must succeed; returns what it printed."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def active(keyring: Path) -> str:
    """The active key_id, by the command that lists them."""
    listed = json.loads(tool("keys", "--keyring", str(keyring), "--output", "json"))
    return next(str(key["key_id"]) for key in listed["keys"] if key["state"] == "active")
