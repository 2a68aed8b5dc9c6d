"""The project's own errors. `edge` turns them into gRPC status codes, in that one place.

Domain code raises these and never imports grpc, so it is tested without a socket. The *message* goes to the
caller (kubelet event, pod status, API server log): it says what happened, to which object, and what to do.
The *detail* goes to the log only, under the same request id: command output, paths, errno.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Code(enum.IntEnum):
    """gRPC status codes by number (gRPC core concepts, "Status codes and their use in gRPC")."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class NodeplugError(Exception):
    """Base of every error that a caller may see.

    Args:
        message: for the caller; names the object and what to do; never a secret.
        detail: for the log only.
    """

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidArgument(NodeplugError):
    """The request is wrong in itself and stays wrong; nothing was touched."""

    code = Code.INVALID_ARGUMENT


class NotFound(NodeplugError):
    """The object that the request names does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(NodeplugError):
    """The object exists with other properties than the request asks for."""

    code = Code.ALREADY_EXISTS


class FailedPrecondition(NodeplugError):
    """The object is in a state that forbids the operation until somebody acts."""

    code = Code.FAILED_PRECONDITION


class Aborted(NodeplugError):
    """Another operation on the same object is under way: call again later."""

    code = Code.ABORTED


class OutOfRange(NodeplugError):
    """A size or an offset cannot be served."""

    code = Code.OUT_OF_RANGE


class ResourceExhausted(NodeplugError):
    """Space, limit or quota is used up (on this node: another one may do)."""

    code = Code.RESOURCE_EXHAUSTED


class PermissionDenied(NodeplugError):
    """The caller, or this process, may not do that."""

    code = Code.PERMISSION_DENIED


class Unavailable(NodeplugError):
    """Not now: starting, stopping, or a peer does not answer. The same call may succeed later."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(NodeplugError):
    """It did not end in the time given for it."""

    code = Code.DEADLINE_EXCEEDED


class Unimplemented(NodeplugError):
    """This daemon does not serve that."""

    code = Code.UNIMPLEMENTED


class DataLoss(NodeplugError):
    """What is stored is not what was written; nothing was changed, a person has to look."""

    code = Code.DATA_LOSS


class Internal(NodeplugError):
    """A step that must work did not. The log has the rest under the request id."""

    code = Code.INTERNAL


class ConfigError(NodeplugError):
    """The configuration or the environment does not allow a start. The command ends with exit code 2."""

    code = Code.INVALID_ARGUMENT
