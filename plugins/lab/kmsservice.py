"""The API server's calls to a KMS v2 plugin: one connection per provider, one deadline per call, no retry."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc
from plugins.lab.channels import channel, reason
from plugins.lab.envelope import Sealed
from plugins.lab.errors import LabError

R = TypeVar("R")


class KmsError(LabError):
    """The plugin refused, or did not answer in time."""


@dataclass(frozen=True)
class Status:
    """What a plugin says of itself."""

    version: str
    healthz: str
    key_id: str


class KmsService:
    """A lazy connection that waits for the socket to be there (WaitForReady), up to the deadline of each call."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        """endpoint: "unix:///path/to/kms.sock"; timeout: seconds."""
        self._channel = channel(socket_path(endpoint))
        self._stub = rpc.KeyManagementServiceStub(self._channel)
        self._timeout = timeout

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def status(self) -> Status:
        """Status."""
        reply = self._call(lambda: self._stub.Status(pb.StatusRequest(), timeout=self._timeout, wait_for_ready=True))
        return Status(reply.version, reply.healthz, reply.key_id)

    def encrypt(self, seed: bytes, uid: str) -> Sealed:
        """Encrypt a new seed."""
        request = pb.EncryptRequest(plaintext=seed, uid=uid)
        reply = self._call(lambda: self._stub.Encrypt(request, timeout=self._timeout, wait_for_ready=True))
        return Sealed(reply.key_id, reply.ciphertext, dict(reply.annotations))

    def decrypt(self, sealed: Sealed) -> bytes:
        """Open a seed again."""
        request = pb.DecryptRequest(
            ciphertext=sealed.source, uid=str(uuid.uuid4()), key_id=sealed.key_id, annotations=dict(sealed.annotations)
        )
        return self._call(lambda: self._stub.Decrypt(request, timeout=self._timeout, wait_for_ready=True)).plaintext

    @staticmethod
    def _call(call: Callable[[], R]) -> R:
        try:
            return call()
        except grpc.RpcError as error:
            raise KmsError(reason(error)) from error
        except ValueError as error:  # closed meanwhile
            raise KmsError(str(error)) from error


def socket_path(endpoint: str) -> Path:
    """The path in an endpoint.

    Raises:
        LabError: another scheme, or a name in the abstract namespace: nobody could restrict who calls there.
    """
    scheme, _, path = endpoint.partition("://")
    if scheme != "unix" or not path.startswith("/") or path.startswith("/@"):
        raise LabError(f'the endpoint {endpoint!r} is not of the form "unix:///path/to/kms.sock"')
    return Path(path)
