"""KeyManagementService (kms v2): from requests to the domain and back.

Contract: k8s.io/kms/apis/v2 and the checks of kube-apiserver on the answers. Errors are raised and become status
codes in `core.edge`; a request's failure never changes what Status says.
"""

from __future__ import annotations

import grpc

from plugins.api.kms.v2 import kms_pb2 as pb
from plugins.api.kms.v2 import kms_pb2_grpc as rpc
from plugins.core import log
from plugins.kms import limits
from plugins.kms.announce import GENERATION, OBSERVE, Announcements
from plugins.kms.envelope import PLAINTEXT_MAX
from plugins.kms.live import LiveKeyring

logger = log.get("kms.service")


class KeyManagement(rpc.KeyManagementServiceServicer):
    """The three calls of the API server."""

    def __init__(self, keyring: LiveKeyring) -> None:
        self._keyring = keyring
        self._announcements = Announcements()

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """The version, "ok", and the key_id that the caller's next Encrypt will use.

        "ok" is what was proven when the snapshot was made: its active key opened what it sealed.
        """
        ring = self._keyring.current
        key_id = ring.active.key_id
        if any(name == OBSERVE for name, _ in context.invocation_metadata()):
            context.set_trailing_metadata(((GENERATION, str(ring.generation)),))
        elif self._announcements.announce(context.peer(), key_id):
            logger.info("announced to a caller", key_id=key_id)
        return pb.StatusResponse(version=limits.API_VERSION, healthz="ok", key_id=key_id)

    def Encrypt(self, request: pb.EncryptRequest, context: grpc.ServicerContext) -> pb.EncryptResponse:
        """Seal a seed under the key that this caller was last told."""
        limits.check_encrypt(request.plaintext, request.uid, PLAINTEXT_MAX)
        sealed = self._keyring.current.seal(request.plaintext, self._announcements.announced(context.peer()))
        return pb.EncryptResponse(ciphertext=sealed.ciphertext, key_id=sealed.key_id)

    def Decrypt(self, request: pb.DecryptRequest, context: grpc.ServicerContext) -> pb.DecryptResponse:
        """Open a seed that Encrypt sealed, under a key_id of the keyring."""
        limits.check_decrypt(request.ciphertext, request.key_id, request.uid, request.annotations)
        return pb.DecryptResponse(plaintext=self._keyring.current.open(request.ciphertext, request.key_id))
