"""Pages of a list that keep their place while things come and go.

Rows have a number that grows with each one made and is never used twice. A token means "after that number", so a page
neither repeats nor leaves out what exists all the while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from plugins.core.errors import Aborted, InvalidArgument

_PREFIX = "v1-"  # of a token: the number of the last row of the page follows


class _Numbered(Protocol):
    @property
    def seq(self) -> int: ...


T = TypeVar("T", bound=_Numbered)


def page(token: str, limit: int, read: Callable[[int, int], Sequence[T]]) -> tuple[Sequence[T], str]:
    """One page, and the token of the next ("" at the end).

    Args:
        limit: how many at most; 0 for all.
        read: gives the rows after a number, at most so many (-1: all), in the order of their numbers.

    Raises:
        InvalidArgument: a negative limit.
        Aborted: the token is none of ours (CSI, ListVolumes: start over without one).
    """
    if limit < 0:
        raise InvalidArgument("max_entries is negative")
    rows = read(_number(token), limit + 1 if limit else -1)
    if limit and len(rows) > limit:
        return rows[:limit], f"{_PREFIX}{rows[limit - 1].seq}"
    return rows, ""


def _number(token: str) -> int:
    if not token:
        return 0
    number = token.removeprefix(_PREFIX)
    if not (token.startswith(_PREFIX) and number.isascii() and number.isdigit() and len(number) <= 18):
        raise Aborted("starting_token is not one of ours; list again without it")
    return int(number)
