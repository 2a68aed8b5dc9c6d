"""Who may connect: the kernel's word on the process at the other end of a Unix socket."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred, unix(7)
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; the socket module has no name for it
_GROUPS_BYTES: Final = 1024  # the most getsockopt() of the socket module reads: 256 groups


class Peer(NamedTuple):
    """The process that called connect(): its ids as they were then, seen from our namespaces."""

    pid: int
    uid: int
    gid: int

    @property
    def key(self) -> tuple[int, int]:
        """What its account is kept under: the process; outside of our pid namespace (pid 0), all those of its uid."""
        return self.uid, self.pid


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """An allow-list. A peer passes if its uid is listed or one of its groups is; empty means nobody.

    A process of a user namespace that is not mapped into ours appears as 65534 (the overflow uid),
    as does every other such process: never list that id.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def allows(self, pid: int, uid: int, gid: int) -> bool:
        """Whether these ids pass. pid is no ground for trust (it can be reused) and is not looked at."""
        return uid in self.uids or gid in self.gids

    def admits(self, sock: socket.socket, peer: Peer) -> bool:
        """As `allows`, supplementary groups included (SO_PEERGROUPS, read only where it can matter)."""
        if self.allows(*peer):
            return True
        return bool(self.gids) and not self.gids.isdisjoint(supplementary_groups(sock))


def peer_of(sock: socket.socket) -> Peer:
    """SO_PEERCRED of a connected Unix socket.

    Raises:
        OSError: the socket is no connected Unix socket.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


_TAG: Final = os.urandom(6).hex()  # of this process: abstract names are shared by the whole network namespace
_numbers: Final = itertools.count(1)


def backend_name(peer: Peer) -> bytes:
    """An abstract socket name that tells the server who is behind a relayed connection, unlike any other.

    The server's grpc.ServicerContext.peer() shows it; `uid_of` reads it. It is a label, no proof: the policy was
    applied before, on the kernel's word.
    """
    return f"\0nodeplug-{_TAG}-{next(_numbers)}-uid-{peer.uid}".encode()


def uid_of(peer_text: str) -> int | None:
    """The uid in a text of grpc.ServicerContext.peer(); None where the connection was not relayed by us."""
    head, mark, uid = peer_text.rpartition("-uid-")
    return int(uid) if mark and _TAG in head and uid.isdigit() else None


def supplementary_groups(sock: socket.socket) -> tuple[int, ...]:
    """The peer's supplementary groups; empty where the kernel does not tell or there are over 256."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
