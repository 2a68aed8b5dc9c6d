"""The floor of a gRPC server in Python: grpcio, a thread pool, handlers that do nothing else. Knows no nodeplug.

    python -m benchmarks.bare_server SOCKET echo|csi|kms

echo: one method with a well-known message, for memory. csi: the calls of the paired benchmarks, each answered with a
reply made beforehand. kms: Status, Encrypt and Decrypt with AES-256-GCM and nothing around it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # as in the daemons

import grpc

WORKERS = 32  # as in the daemons; made on demand

Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"


def method(behavior: Callable[[Any, Any], Any], request: Any, reply: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary handler with the codecs of its messages."""
    return grpc.unary_unary_rpc_method_handler(
        behavior, request_deserializer=request.FromString, response_serializer=reply.SerializeToString
    )


def echo() -> dict[str, Handlers]:
    """One method that returns its request."""
    from google.protobuf.wrappers_pb2 import BytesValue

    return {"bench.Echo": {"Say": method(lambda request, context: request, BytesValue, BytesValue)}}


def csi() -> dict[str, Handlers]:
    """Probe and the three calls that make a volume ready."""
    from plugins.api.csi.v1 import csi_pb2 as pb

    probe = pb.ProbeResponse()
    probe.ready.value = True
    created = pb.CreateVolumeResponse(volume=pb.Volume(volume_id="bench", capacity_bytes=1 << 30))
    staged, published = pb.NodeStageVolumeResponse(), pb.NodePublishVolumeResponse()
    return {
        "csi.v1.Identity": {"Probe": method(lambda r, c: probe, pb.ProbeRequest, pb.ProbeResponse)},
        "csi.v1.Controller": {
            "CreateVolume": method(lambda r, c: created, pb.CreateVolumeRequest, pb.CreateVolumeResponse)
        },
        "csi.v1.Node": {
            "NodeStageVolume": method(lambda r, c: staged, pb.NodeStageVolumeRequest, pb.NodeStageVolumeResponse),
            "NodePublishVolume": method(
                lambda r, c: published, pb.NodePublishVolumeRequest, pb.NodePublishVolumeResponse
            ),
        },
    }


def kms() -> dict[str, Handlers]:
    """The contract of KMS v2 with one key and no rules."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from plugins.api.kms.v2 import kms_pb2 as pb

    cipher = AESGCM(os.urandom(32))
    status = pb.StatusResponse(version="v2", healthz="ok", key_id="bench")

    def encrypt(request: pb.EncryptRequest, context: grpc.ServicerContext) -> pb.EncryptResponse:
        nonce = os.urandom(12)
        return pb.EncryptResponse(ciphertext=nonce + cipher.encrypt(nonce, request.plaintext, None), key_id="bench")

    def decrypt(request: pb.DecryptRequest, context: grpc.ServicerContext) -> pb.DecryptResponse:
        return pb.DecryptResponse(plaintext=cipher.decrypt(request.ciphertext[:12], request.ciphertext[12:], None))

    return {
        "v2.KeyManagementService": {
            "Status": method(lambda r, c: status, pb.StatusRequest, pb.StatusResponse),
            "Encrypt": method(encrypt, pb.EncryptRequest, pb.EncryptResponse),
            "Decrypt": method(decrypt, pb.DecryptRequest, pb.DecryptResponse),
        }
    }


def main() -> None:
    """Serve on the socket until killed."""
    socket, kind = sys.argv[1:]
    server = grpc.server(ThreadPoolExecutor(WORKERS), options=[("grpc.so_reuseport", 0)])
    for service, handlers in {"echo": echo, "csi": csi, "kms": kms}[kind]().items():
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
