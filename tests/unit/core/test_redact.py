"""No secret reaches a log line, whatever message it hides in."""

from __future__ import annotations

import json

import pytest

from plugins.api.csi.v1 import csi_pb2
from plugins.api.kms.v2 import kms_pb2
from plugins.core import redact

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "message",
    [
        csi_pb2.CreateVolumeRequest(name="v", secrets={"any": SECRET}),
        csi_pb2.NodeStageVolumeRequest(volume_id="v", secrets={"any": SECRET}),
        csi_pb2.NodePublishVolumeRequest(
            volume_id="v", volume_context={"csi.storage.k8s.io/serviceAccount.tokens": SECRET, "plain": "shown"}
        ),
        csi_pb2.CreateVolumeRequest(name="v", parameters={"adminPassword": SECRET}),
        kms_pb2.EncryptRequest(plaintext=SECRET.encode(), uid="u"),
        kms_pb2.DecryptRequest(ciphertext=SECRET.encode(), key_id="k", annotations={"a.b": SECRET.encode()}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_secrets_are_hidden(message: object) -> None:
    shown = json.dumps(redact.fields(message), default=str)  # type: ignore[arg-type]
    assert SECRET not in shown


def test_the_rest_is_shown() -> None:
    request = csi_pb2.CreateVolumeRequest(
        name="pvc-1",
        capacity_range=csi_pb2.CapacityRange(required_bytes=5),
        parameters={"pool": "fast"},
        volume_capabilities=[csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(fs_type="xfs"))],
    )
    assert redact.fields(request) == {
        "name": "pvc-1",
        "capacity_range": {"required_bytes": 5},
        "parameters": {"pool": "fast"},
        "volume_capabilities": [{"mount": {"fs_type": "xfs"}}],
    }


def test_long_text_is_cut() -> None:
    assert len(redact.fields(csi_pb2.DeleteVolumeRequest(volume_id="x" * 5000))["volume_id"]) < 600
