"""A KMS v2 plugin that keeps its seeds in memory, with defects to switch on."""

from __future__ import annotations

import threading

import grpc

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc


class FakeKms(rpc.KeyManagementServiceServicer):
    """`key_id` is what Status says; `encrypts_as`, where set, is what Encrypt says instead."""

    def __init__(self, key_id: str = "key-1") -> None:
        self.key_id = key_id
        self.encrypts_as = ""
        self.version = "v2"
        self.healthz = "ok"
        self.down = False
        self.annotations: dict[str, bytes] = {}
        self.ciphertext_size = 0
        self.hang = threading.Event()
        self.hang.set()  # cleared: every call waits
        self.calls: list[str] = []
        self._seeds: dict[bytes, tuple[str, bytes]] = {}

    def add(self, server: grpc.Server) -> None:
        rpc.add_KeyManagementServiceServicer_to_server(self, server)

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        self._enter("Status", context)
        return pb.StatusResponse(version=self.version, healthz=self.healthz, key_id=self.key_id)

    def Encrypt(self, request: pb.EncryptRequest, context: grpc.ServicerContext) -> pb.EncryptResponse:
        self._enter("Encrypt", context)
        assert len(request.plaintext) == 32
        key_id = self.encrypts_as or self.key_id
        ciphertext = f"sealed {len(self._seeds)} {key_id}".encode().ljust(self.ciphertext_size, b"x")
        self._seeds[ciphertext] = (key_id, request.plaintext)
        return pb.EncryptResponse(ciphertext=ciphertext, key_id=key_id, annotations=self.annotations)

    def Decrypt(self, request: pb.DecryptRequest, context: grpc.ServicerContext) -> pb.DecryptResponse:
        self._enter("Decrypt", context)
        key_id, seed = self._seeds.get(request.ciphertext, ("", b""))
        if key_id != request.key_id or dict(request.annotations) != self.annotations:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not sealed here")
        return pb.DecryptResponse(plaintext=seed)

    def _enter(self, name: str, context: grpc.ServicerContext) -> None:
        self.calls.append(name)
        self.hang.wait(10)
        if self.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the holder does not answer")
