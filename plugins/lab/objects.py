"""Objects as the API server writes them: Secrets in Kubernetes' protobuf form, everything else as JSON.

A Secret becomes "k8s\\0" and a runtime.Unknown message that holds its kind and the protobuf Secret, as in a real etcd;
other kinds are written in the form of custom resources. The messages are described here by their published field
numbers (core/v1 and meta/v1, generated.proto) and hold the fields that a person writes; a Secret with others
(ownerReferences, managedFields) is refused rather than stored without them.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from plugins.lab.errors import LabError

MAGIC = b"k8s\0"
Manifest = Mapping[str, Any]

_STRING, _BYTES, _BOOL, _INT64, _MESSAGE = 9, 12, 8, 3, 11  # FieldDescriptorProto.Type
_FIELDS: dict[str, dict[str, tuple[int, int | str]]] = {
    "TypeMeta": {"apiVersion": (1, _STRING), "kind": (2, _STRING)},
    "Unknown": {
        "typeMeta": (1, "TypeMeta"),
        "raw": (2, _BYTES),
        "contentEncoding": (3, _STRING),
        "contentType": (4, _STRING),
    },
    "Time": {"seconds": (1, _INT64)},
    "ObjectMeta": {
        "name": (1, _STRING),
        "generateName": (2, _STRING),
        "namespace": (3, _STRING),
        "uid": (5, _STRING),
        "creationTimestamp": (8, "Time"),
        "labels": (11, "map:string"),
        "annotations": (12, "map:string"),
        "finalizers": (14, "repeated"),
    },
    "Secret": {
        "metadata": (1, "ObjectMeta"),
        "data": (2, "map:bytes"),
        "type": (3, _STRING),
        "immutable": (5, _BOOL),
    },
}


def encode(manifest: Manifest) -> bytes:
    """The bytes of an object before encryption.

    Raises:
        LabError: a Secret with a field that is not known here, or a value that is not base64.
    """
    if manifest.get("kind") != "Secret":
        return json.dumps(manifest, sort_keys=True).encode() + b"\n"
    kinds = _messages()
    unknown = kinds["Unknown"](raw=_secret(manifest).SerializeToString(deterministic=True))
    unknown.typeMeta.apiVersion = manifest["apiVersion"]  # type: ignore[attr-defined]
    unknown.typeMeta.kind = "Secret"  # type: ignore[attr-defined]
    return MAGIC + unknown.SerializeToString(deterministic=True)


def decode(data: bytes) -> dict[str, Any]:
    """The manifest again; values of a Secret's data are base64, as everywhere in the API."""
    if not data.startswith(MAGIC):
        return dict(json.loads(data))
    kinds = _messages()
    unknown: Any = kinds["Unknown"].FromString(data[len(MAGIC) :])
    secret: Any = kinds["Secret"].FromString(unknown.raw)
    manifest: dict[str, Any] = {
        "apiVersion": unknown.typeMeta.apiVersion,
        "kind": unknown.typeMeta.kind,
        "metadata": _metadata(secret.metadata),
        "data": {key: base64.b64encode(value).decode() for key, value in sorted(secret.data.items())},
        "type": secret.type,
    }
    if secret.HasField("immutable"):
        manifest["immutable"] = secret.immutable
    return manifest


def _secret(manifest: Manifest) -> Message:
    _known(manifest, {"apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable"}, "")
    secret: Any = _messages()["Secret"](type=manifest.get("type", "Opaque"))
    for key, text in manifest.get("data", {}).items():
        try:
            secret.data[key] = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise LabError(f"Secret: data.{key} is not base64: {error}") from error
    for key, text in manifest.get("stringData", {}).items():  # merged when written, as by the API server
        secret.data[key] = text.encode()
    if "immutable" in manifest:
        secret.immutable = manifest["immutable"]
    _fill(secret.metadata, manifest["metadata"])
    return secret  # type: ignore[no-any-return]


def _fill(into: Any, metadata: Manifest) -> None:
    _known(metadata, {*_FIELDS["ObjectMeta"], "resourceVersion"}, "metadata.")
    for name in ("name", "generateName", "namespace", "uid"):
        if name in metadata:
            setattr(into, name, metadata[name])
    for name in ("labels", "annotations"):
        getattr(into, name).update(metadata.get(name, {}))
    into.finalizers.extend(metadata.get("finalizers", ()))
    if stamp := metadata.get("creationTimestamp"):
        into.creationTimestamp.seconds = int(datetime.datetime.fromisoformat(stamp).timestamp())


def _metadata(source: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {n: getattr(source, n) for n in ("name", "namespace", "uid") if getattr(source, n)}
    if source.HasField("creationTimestamp"):
        moment = datetime.datetime.fromtimestamp(source.creationTimestamp.seconds, datetime.UTC)
        metadata["creationTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    for name in ("labels", "annotations"):
        if getattr(source, name):
            metadata[name] = dict(getattr(source, name))
    if source.finalizers:
        metadata["finalizers"] = list(source.finalizers)
    return metadata


def _known(given: Manifest, known: set[str], where: str) -> None:
    if unknown := sorted(given.keys() - known):
        raise LabError(f"Secret: the lab's storage has no field {where}{unknown[0]}")


@functools.cache
def _messages() -> dict[str, type[Message]]:
    """The message classes, from a descriptor pool of their own: nothing else can clash with their names."""
    file = descriptor_pb2.FileDescriptorProto(name="lab/objects.proto", package="lab", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _describe(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindFileByName("lab/objects.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(found[name]) for name in _FIELDS}


def _describe(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: int | str) -> None:
    field = message.field.add(name=name, number=number, label=1)  # optional
    if isinstance(kind, int):
        field.type = kind  # type: ignore[assignment]
    elif kind == "repeated":
        field.label, field.type = 3, _STRING  # type: ignore[assignment]
    elif kind.startswith("map:"):
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=_STRING)
        value = _BYTES if kind == "map:bytes" else _STRING
        entry.field.add(name="value", number=2, label=1, type=value)
        field.label, field.type = 3, _MESSAGE  # type: ignore[assignment]
        field.type_name = f".lab.{message.name}.{entry.name}"
    else:
        field.type, field.type_name = _MESSAGE, f".lab.{kind}"  # type: ignore[assignment]
