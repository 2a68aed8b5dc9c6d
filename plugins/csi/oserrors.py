"""What the kernel says, as the project's own errors: the last net under an RPC that touches the pool."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from plugins.core.errors import Internal, PermissionDenied, ResourceExhausted

P = ParamSpec("P")
R = TypeVar("R")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})


def translated(call: Callable[P, R]) -> Callable[P, R]:
    """Let an OSError leave a method as a status that its caller can act on; the log gets all of it."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if error.errno in _FULL:
                raise ResourceExhausted(
                    f"the node ran out of something: {error.strerror}", detail=str(error)
                ) from error
            if error.errno in _FORBIDDEN:
                raise PermissionDenied(
                    f"the kernel refuses it to this daemon: {error.strerror}; does it run as root, privileged?",
                    detail=str(error),
                ) from error
            raise Internal(f"the kernel reports: {error.strerror}", detail=str(error)) from error

    return wrapper
