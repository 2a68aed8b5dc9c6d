"""The public listening sockets: accept, ask the kernel who it is, let in or turn away."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final, Protocol

from plugins.core.acceptor.limits import Budgets, Limits
from plugins.core.acceptor.loop import READ, Handler, Loop
from plugins.core.acceptor.peers import Peer, PeerPolicy, peer_of

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BREATH: Final = 1.0  # seconds without accepting when the kernel has no descriptor or memory left
_AT_ONCE: Final = 32  # connections accepted per event, so that the open ones get their turn

Admit = Callable[[socket.socket, Peer, str], None]


class Note(Protocol):
    """Count and log."""

    def __call__(self, counter: str, message: str, **fields: object) -> None:
        """One more of `counter`, and a line with these fields."""


class Gate:
    """Listeners are shared with other processes at times, and so is their O_NONBLOCK.

    They are only ever made non-blocking, and another process may win any race for a connection.
    Those not accepted from are not watched either: what connects stays in the backlog, for
    whoever accepts next.
    """

    def __init__(
        self, loop: Loop, policy: PeerPolicy, limits: Limits, budgets: Budgets, note: Note, admit: Admit
    ) -> None:
        """admit: takes over an accepted, non-blocking socket."""
        self._loop = loop
        self._policy = policy
        self._limits = limits
        self._budgets = budgets
        self._note = note
        self._admit = admit
        self._listeners: dict[socket.socket, str] = {}
        self._watched: set[socket.socket] = set()
        self._open = False
        self._resting = False  # out of descriptors: not accepting for a moment
        self._inside = 0
        self._by_uid: dict[int, int] = {}

    def add(self, listener: socket.socket, backend: str) -> None:
        """Accept from it, if open; backend goes to `admit` with each connection."""
        self._listeners[listener] = backend
        self._update()

    def remove(self, listener: socket.socket) -> None:
        """Accept from it no longer."""
        self._listeners.pop(listener, None)
        self._update()

    def open(self) -> None:
        """Accept from now on."""
        self._open = True
        self._update()

    def shut(self) -> None:
        """Leave what connects in the backlogs."""
        self._open = False
        self._update()

    def left(self, peer: Peer) -> None:
        """A connection that was admitted has ended."""
        self._inside -= 1
        self._by_uid[peer.uid] -= 1
        if not self._by_uid[peer.uid]:
            del self._by_uid[peer.uid]

    def _update(self) -> None:
        wanted = set(self._listeners) if self._open and not self._resting else set()
        for listener in self._watched - wanted:
            self._loop.unwatch(listener)
        for listener in wanted - self._watched:
            try:
                listener.setblocking(False)
                self._loop.watch(listener, READ, self._accepting(listener), self._failed)
            except OSError as error:  # closed without having been removed: the other listeners go on
                self._note("failures", "cannot listen", error=str(error))
                wanted.discard(listener)
        self._watched = wanted

    def _accepting(self, listener: socket.socket) -> Handler:
        def accept(_mask: int) -> None:
            for _ in range(_AT_ONCE):
                if not self._accept(listener):
                    break

        return accept

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection; False where there is none to take now."""
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another process was faster, or the client has gone
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._rest(error)
            return False
        try:
            self._check(client, self._listeners[listener])
        except OSError:
            client.close()  # it has gone already
        except BaseException:
            client.close()
            raise
        return True

    def _check(self, client: socket.socket, backend: str) -> None:
        peer = peer_of(client)
        if not self._policy.admits(client, peer):
            self._refuse(client, peer, "refused_peers", "peer refused")
        elif self._inside >= self._limits.connections:
            self._refuse(client, peer, "refused_limit", "too many connections")
        elif self._by_uid.get(peer.uid, 0) >= self._limits.connections_per_uid:
            self._refuse(client, peer, "refused_limit", "too many connections of one uid")
        elif self._budgets.of(peer.key).owes:
            self._refuse(client, peer, "refused_limit", "peer has abandoned too many calls")
        else:
            client.setblocking(False)
            self._admit(client, peer, backend)
            self._inside += 1
            self._by_uid[peer.uid] = self._by_uid.get(peer.uid, 0) + 1

    def _refuse(self, client: socket.socket, peer: Peer, counter: str, message: str) -> None:
        self._note(counter, message, pid=peer.pid, uid=peer.uid, gid=peer.gid)
        client.close()

    def _rest(self, error: OSError) -> None:
        """The connection stays in the backlog and epoll would report it at once, again and again."""
        self._note("failures", "cannot accept for a moment", error=str(error))
        self._resting = True
        self._update()
        self._loop.after(_BREATH, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._update()

    def _failed(self, error: BaseException) -> None:
        """An error of accept() that is none of the known ones would also come again at once."""
        if isinstance(error, OSError):
            self._rest(error)
        else:
            self._note("failures", "connection lost by an error", error=repr(error))
