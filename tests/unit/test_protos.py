"""What the committed stubs promise: names on the wire, option marks, and that they are current."""

import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor import (
    Descriptor,
    DescriptorBase,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
)
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto

from plugins.api.csi.v1 import csi_pb2
from tools import protogen

ROOT = Path(__file__).resolve().parents[2]

# Elements of a descriptor by full name.
Elements = Mapping[str, DescriptorBase]

APIS = {
    "csi.v1": "csi.v1",
    "deviceplugin.v1beta1": "v1beta1",
    "pluginregistration.v1": "pluginregistration",
    "podresources.v1": "v1",
    "dra.v1": "k8s.io.kubelet.pkg.apis.dra.v1",
    "dra.v1beta1": "k8s.io.kubelet.pkg.apis.dra.v1beta1",
    "dra_health.v1": "v1",
    "dra_health.v1alpha1": "v1alpha1",
    "kms.v2": "v2",
    "kms_storage.v2": "v2",
}

# Everything that CSI 1.13.0 marks as alpha, by kind of option.
ALPHA = {
    "alpha_service": {"SnapshotMetadata"},
    "alpha_method": {
        "Controller.ControllerListVolumeHealth",
        "Controller.ControllerGetVolumeHealth",
        "Controller.GetSnapshot",
        "Controller.ControllerGetVolume",
        "Node.NodeGetVolumeHealth",
        "Node.NodeGetStorageHealth",
    },
    "alpha_message": set(),
    "alpha_field": {
        "CreateSnapshotRequest.accessibility_requirements",
        "Snapshot.accessible_topology",
    },
    "alpha_enum": set(),
    "alpha_enum_value": {
        "PluginCapability.Service.Type.SNAPSHOT_METADATA_SERVICE",
        "PluginCapability.Service.Type.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
        "VolumeCapability.AccessMode.Mode.SINGLE_NODE_SINGLE_WRITER",
        "VolumeCapability.AccessMode.Mode.SINGLE_NODE_MULTI_WRITER",
        "ControllerServiceCapability.RPC.Type.GET_VOLUME",
        "ControllerServiceCapability.RPC.Type.SINGLE_NODE_MULTI_WRITER",
        "ControllerServiceCapability.RPC.Type.GET_SNAPSHOT",
        "ControllerServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
        "ControllerServiceCapability.RPC.Type.LIST_VOLUME_HEALTH",
        "NodeServiceCapability.RPC.Type.SINGLE_NODE_MULTI_WRITER",
        "NodeServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
        "NodeServiceCapability.RPC.Type.GET_STORAGE_HEALTH",
    },
}

# Paths of all calls but those of CSI, as they travel in HTTP/2. The starred ones answer a stream.
WIRE_NAMES = {
    "deviceplugin.v1beta1": {
        "/v1beta1.Registration/Register",
        "/v1beta1.DevicePlugin/GetDevicePluginOptions",
        "/v1beta1.DevicePlugin/ListAndWatch*",
        "/v1beta1.DevicePlugin/GetPreferredAllocation",
        "/v1beta1.DevicePlugin/Allocate",
        "/v1beta1.DevicePlugin/PreStartContainer",
    },
    "pluginregistration.v1": {
        "/pluginregistration.Registration/GetInfo",
        "/pluginregistration.Registration/NotifyRegistrationStatus",
    },
    "podresources.v1": {
        "/v1.PodResourcesLister/List",
        "/v1.PodResourcesLister/GetAllocatableResources",
        "/v1.PodResourcesLister/Get",
    },
    "dra.v1": {
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    },
    "dra.v1beta1": {
        "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
    },
    "dra_health.v1": {"/v1.DRAResourceHealth/NodeWatchResources*"},
    "dra_health.v1alpha1": {"/v1alpha1.DRAResourceHealth/NodeWatchResources*"},
    "kms.v2": {
        "/v2.KeyManagementService/Status",
        "/v2.KeyManagementService/Decrypt",
        "/v2.KeyManagementService/Encrypt",
    },
    "kms_storage.v2": set(),
}

CSI_CALLS = {
    "Identity": 3,
    "Controller": 17,
    "GroupController": 4,
    "SnapshotMetadata": 2,
    "Node": 10,
}
CSI_SECRETS = 22


def descriptor(api: str) -> FileDescriptor:
    """The file descriptor of an API such as "kms.v2", after importing both of its modules."""
    module = f"plugins.api.{api}.{api.split('.')[0]}_pb2"
    importlib.import_module(f"{module}_grpc")
    file = importlib.import_module(module).DESCRIPTOR
    assert isinstance(file, FileDescriptor)
    return file


CSI = descriptor("csi.v1")


def messages(within: FileDescriptor | Descriptor) -> Iterator[Descriptor]:
    """All messages at any depth, without the entry types that stand for maps."""
    if isinstance(within, FileDescriptor):
        direct = list(within.message_types_by_name.values())
    else:
        direct = list(within.nested_types)
    for message in direct:
        if not message.GetOptions().map_entry:
            yield message
            yield from messages(message)


def fields() -> list[FieldDescriptor]:
    """All fields of CSI."""
    return [field for message in messages(CSI) for field in message.fields]


def enums() -> list[EnumDescriptor]:
    """All enums of CSI, those inside messages included."""
    nested = [enum for message in messages(CSI) for enum in message.enum_types]
    return [*CSI.enum_types_by_name.values(), *nested]


def marked(option: str, elements: Elements) -> set[str]:
    """The names of the elements on which an option of CSI is set."""
    extension = getattr(csi_pb2, option)
    return {name for name, e in elements.items() if e.GetOptions().Extensions[extension]}


def calls(file: FileDescriptor) -> set[str]:
    """The HTTP/2 paths of a file's calls, with a star after those that answer a stream."""
    return {
        f"/{service.full_name}/{method.name}{'*' if method.server_streaming else ''}"
        for service in file.services_by_name.values()
        for method in service.methods
    }


def test_all_apis_load_into_one_process() -> None:
    files = {api: descriptor(api) for api in APIS}

    assert {api: file.package for api, file in files.items()} == APIS
    assert len({file.name for file in files.values()}) == 10


def test_every_proto_file_is_tested_here() -> None:
    found = {".".join(path.parts[:2]) for path in protogen.sources()}

    assert found == set(APIS)


@pytest.mark.parametrize("api", sorted(WIRE_NAMES))
def test_calls_have_the_names_that_peers_use(api: str) -> None:
    assert calls(descriptor(api)) == WIRE_NAMES[api]


def test_csi_has_36_calls_and_only_snapshot_metadata_streams() -> None:
    services = CSI.services_by_name

    assert {name: len(service.methods) for name, service in services.items()} == CSI_CALLS
    assert {call for call in calls(CSI) if call.endswith("*")} == {
        "/csi.v1.SnapshotMetadata/GetMetadataAllocated*",
        "/csi.v1.SnapshotMetadata/GetMetadataDelta*",
    }


def test_csi_secret_marks_every_field_named_secrets_and_no_other() -> None:
    secret = marked("csi_secret", {field.full_name: field for field in fields()})

    assert secret == {field.full_name for field in fields() if field.name == "secrets"}
    assert len(secret) == CSI_SECRETS


def test_alpha_marks_are_exactly_those_of_the_release() -> None:
    services = list(CSI.services_by_name.values())
    elements: dict[str, Elements] = {
        "alpha_service": {s.full_name: s for s in services},
        "alpha_method": {m.full_name: m for s in services for m in s.methods},
        "alpha_message": {m.full_name: m for m in messages(CSI)},
        "alpha_field": {f.full_name: f for f in fields()},
        "alpha_enum": {e.full_name: e for e in enums()},
        # The full name of a value leaves its enum out, so it is put together here.
        "alpha_enum_value": {f"{e.full_name}.{v.name}": v for e in enums() for v in e.values},
    }
    found = {kind: marked(kind, of_kind) for kind, of_kind in elements.items()}

    assert all(elements.values())
    assert found == {kind: {f"csi.v1.{name}" for name in names} for kind, names in ALPHA.items()}
    assert [len(names) for names in found.values()] == [1, 6, 0, 2, 0, 12]


def test_csi_option_numbers() -> None:
    numbers = {name: extension.number for name, extension in CSI.extensions_by_name.items()}

    assert numbers.pop("csi_secret") == 1059
    assert numbers == dict.fromkeys(ALPHA, 1060)


@pytest.mark.parametrize(
    "name",
    [
        "ListVolumesResponse.VolumeStatus",
        "ControllerGetVolumeResponse.VolumeStatus",
        "NodeGetVolumeStatsResponse",
    ],
)
def test_numbers_of_removed_fields_stay_reserved(name: str) -> None:
    proto = DescriptorProto()
    next(m for m in messages(CSI) if m.full_name == f"csi.v1.{name}").CopyToProto(proto)

    # The end of a message's range is not part of it.
    assert [(r.start, r.end) for r in proto.reserved_range] == [(2, 3)]


@pytest.mark.parametrize(("service", "number"), [("Controller", 11), ("Node", 4)])
def test_numbers_of_removed_capabilities_stay_reserved(service: str, number: int) -> None:
    proto = EnumDescriptorProto()
    name = f"csi.v1.{service}ServiceCapability.RPC.Type"
    next(e for e in enums() if e.full_name == name).CopyToProto(proto)

    # The end of an enum's range is part of it.
    assert [(r.start, r.end) for r in proto.reserved_range] == [(number, number)]


def test_stubs_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "protogen.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_names_what_is_not_current() -> None:
    same, old, lost, extra = Path("same.py"), Path("old.py"), Path("lost.py"), Path("extra.py")

    want = {same: b"1", old: b"1", lost: b"1"}
    have = {same: b"1", old: b"2", extra: b"1"}

    assert protogen.differences(want, have) == [
        "not generated: extra.py",
        "missing: lost.py",
        "differs: old.py",
    ]


def test_check_sees_a_file_that_was_changed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = protogen.contents
    current = real(ROOT)
    touched = Path("plugins/api/kms/v2/kms_pb2.py")
    assert touched in current
    stale = {**current, touched: current[touched] + b"# edited\n"}
    monkeypatch.setattr(protogen, "contents", lambda root: stale if root == ROOT else real(root))

    assert protogen.main(["--check"]) == 1
    assert capsys.readouterr().out == f"differs: {touched}\n"
