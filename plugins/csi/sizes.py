"""How large a volume becomes: never below what is required, never above the limit, in whole blocks."""

from __future__ import annotations

from plugins.core.errors import InvalidArgument, OutOfRange
from plugins.core.units import Bytes
from plugins.csi.host.filesystems import BLOCK

LARGEST = 1 << 60  # bytes; beyond it no filesystem here can follow
_STEP = 1 << 20  # sizes are rounded up to this where the limit allows, so that few templates serve many requests


def plan(required: int, limit: int, *, minimum: int, default: int) -> int:
    """The size in bytes for a capacity range; 0 means "not given" for both ends (CSI, CapacityRange).

    Raises:
        InvalidArgument: a negative number.
        OutOfRange: no size that we can make lies in the range.
    """
    if required < 0 or limit < 0:
        raise InvalidArgument("capacity_range has a negative number")
    if limit and limit < required:
        raise OutOfRange(f"capacity_range asks for at least {required} and at most {limit} bytes")
    wanted = required or min(default, limit - limit % BLOCK if limit else default)
    floor = max(wanted, minimum)
    for step in (_STEP, BLOCK):
        size = -(-floor // step) * step
        if size <= (limit or LARGEST):
            return size
    if limit and floor <= limit:
        raise OutOfRange(f"no whole number of {BLOCK}-byte blocks lies between {required} and {limit} bytes")
    if limit and limit < minimum:
        raise OutOfRange(f"limit_bytes is {limit}; the smallest volume of this kind has {Bytes(minimum)}")
    raise OutOfRange(f"{required} bytes are more than any volume can have ({Bytes(LARGEST)})")
