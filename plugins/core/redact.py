"""Requests as log fields, with nothing secret in them.

Two rules, both needed: a field that carries the `csi_secret` option (CSI specification, FieldOptions 1059) is never
shown, and neither is a field or a map key whose name is on the deny list. Bytes are shown by their length only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

HIDDEN = "***"
_CSI_SECRET = 1059
_DENIED = re.compile(r"secret|token|passw|passphrase|credential|plaintext|private|api[-_]?key|\bpin\b", re.IGNORECASE)
_TEXT_LIMIT = 512  # characters of one value


def fields(message: Message) -> dict[str, Any]:
    """The set fields of a message as plain values that may be logged."""
    return {field.name: _shown(field, value) for field, value in message.ListFields()}


def secret_name(name: str) -> bool:
    """Whether a field or key of that name is on the deny list."""
    return bool(_DENIED.search(name))


@lru_cache(maxsize=1024)
def _secret(field: FieldDescriptor) -> bool:
    options = field.GetOptions().ListFields()
    marked = any(option.number == _CSI_SECRET and option.is_extension and value for option, value in options)
    return marked or secret_name(field.name)


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if _secret(field):
        return HIDDEN
    if _is_map(field):
        return {str(key): HIDDEN if secret_name(str(key)) else _plain(value[key]) for key in value}
    if field.is_repeated:
        return [_plain(item) for item in value]
    return _plain(value)


def _is_map(field: FieldDescriptor) -> bool:
    entry = field.message_type
    return entry is not None and entry.GetOptions().map_entry


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return fields(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and len(value) > _TEXT_LIMIT:
        return value[:_TEXT_LIMIT] + "..."
    return value
