"""One unambiguous way to put several values into one byte string.

Everything that is hashed, derived from or authenticated goes through `join`. Values that are only written one after
the other would let ("ab", "c") and ("a", "bc") give the same bytes, and with them the same key_id or the same key.
"""

from __future__ import annotations

MAX_PART = 0xFFFF
"""Bytes of one part."""


def join(*parts: bytes) -> bytes:
    """Each part after its length as an unsigned 16-bit big-endian number.

    Raises:
        ValueError: a part is longer than MAX_PART bytes.
    """
    out = bytearray()
    for part in parts:
        if len(part) > MAX_PART:
            raise ValueError(f"a part has {len(part)} bytes; at most {MAX_PART} can be encoded")
        out += len(part).to_bytes(2, "big") + part
    return bytes(out)
