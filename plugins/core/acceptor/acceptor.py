"""The acceptor: public listening sockets in front, the gRPC server's private one behind."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass

from plugins.core.acceptor.connection import Connection
from plugins.core.acceptor.gate import Gate
from plugins.core.acceptor.limits import DEFAULTS, Bucket, Budgets, Limits
from plugins.core.acceptor.loop import Loop
from plugins.core.acceptor.peers import Peer, PeerPolicy
from plugins.core.acceptor.stats import Counters, QuietLog, Stats
from plugins.core.acceptor.sweep import Sweep


@dataclass(slots=True)
class _Drain:
    over: threading.Event
    clean: bool = True


class Acceptor:
    """Accepts, checks who it is, and relays to gRPC; drains without losing a call.

    One thread does all the work and sleeps while nothing happens. The methods may be called from
    any thread; none but `drain` waits for a client.
    """

    def __init__(self, policy: PeerPolicy, limits: Limits = DEFAULTS, *, name: str = "") -> None:
        """policy: who may connect; name: appears in log lines and in the thread's name."""
        self.limits = limits
        self.loop = Loop(f"acceptor-{name}" if name else "acceptor", self._broken)
        self._counters = Counters()
        self._log = QuietLog(name)
        self._budgets = Budgets(limits.abandoned_burst, limits.abandoned_per_second)
        self._gate = Gate(self.loop, policy, limits, self._budgets, self.note, self._admit)
        self._sweep = Sweep(self.loop, limits, self._counters, self._log)
        self._connections: set[Connection] = set()
        self._drain: _Drain | None = None
        self._closed = False

    # -- for the daemon -------------------------------------------------------------------------

    def add(self, listener: socket.socket, backend: str) -> None:
        """Serve a bound and listening Unix socket; backend: path of the server's own socket.

        Before `start` or after. The listener stays the caller's: it is never closed or unlinked
        here. It is made non-blocking, which holds for every process it is shared with. Its backlog
        should be no less than the clients there are: during a hand-over they wait in it.
        """
        self.loop.call(lambda: self._gate.add(listener, backend))

    def remove(self, listener: socket.socket) -> None:
        """Accept on it no longer; its connections go on. To be called before it is closed."""
        self.loop.call(lambda: self._gate.remove(listener))

    def start(self) -> None:
        """Begin to accept. Once."""
        self._gate.open()
        self.loop.start()

    def drain(self, deadline: float) -> bool:
        """Stop accepting, send every client elsewhere and wait until all have gone.

        The listeners stay open and unread: who connects now waits for the next process, or for
        `resume`. Calls under way, and those a client began before it learned of it, are relayed
        to their end. deadline: seconds; what is left then is closed. Returns whether nothing had
        to be cut; a `resume` meanwhile gives False and cuts nothing.
        """
        drain = _Drain(threading.Event())
        self.loop.call(lambda: self._begin(drain))
        if not drain.over.wait(deadline):
            self.loop.call(lambda: self._cut(drain))
        return drain.clean

    def resume(self) -> None:
        """Accept again, after a drain or in the middle of one."""
        self.loop.call(self._resume)

    def close(self) -> None:
        """Close all connections, not the listeners, and end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.loop.call(self._shut)
        self.loop.stop()
        self.loop.release()

    def stats(self) -> Stats:
        """A snapshot; cheap, and never waits for the loop."""
        connections = list(self._connections)
        return Stats(
            connections=len(connections),
            streams=sum(len(each.streams.open) for each in connections),
            half_sent=sum(len(each.streams.half) for each in connections),
            buffered=sum(each.buffered for each in connections),
            **{name: getattr(self._counters, name) for name in Counters.__slots__},
        )

    # -- for the connections --------------------------------------------------------------------

    def note(self, counter: str, message: str, **fields: object) -> None:
        """Count and log; the log is limited, the counter is not."""
        setattr(self._counters, counter, getattr(self._counters, counter) + 1)
        self._log.warn(message, **fields)

    def budget(self, peer: Peer) -> Bucket:
        """What the peer may abandon, on all its connections together."""
        return self._budgets.of(peer.key)

    def greeted(self, connection: Connection) -> None:
        """The preface is whole."""
        self._sweep.greeted(connection)

    def half_sent(self, connection: Connection) -> None:
        """A stream is open whose client has not finished sending."""
        self._sweep.half_sent(connection)

    def ended(self, connection: Connection) -> None:
        """The connection is closed."""
        self._connections.discard(connection)
        self._gate.left(connection.peer)
        self._sweep.ended(connection)
        self._settle()

    # -- on the loop's thread -------------------------------------------------------------------

    def _admit(self, client: socket.socket, peer: Peer, backend: str) -> None:
        self._counters.accepted += 1
        connection = Connection(self, client, peer, backend)
        self._connections.add(connection)
        self._sweep.connected(connection)

    def _begin(self, drain: _Drain) -> None:
        self._gate.shut()
        self._drain = drain
        for connection in list(self._connections):
            connection.leave()
        self._settle()

    def _settle(self) -> None:
        if self._drain is not None and not self._connections:
            self._drain.over.set()
            self._drain = None

    def _cut(self, drain: _Drain) -> None:
        if drain.over.is_set():
            return
        for connection in list(self._connections):
            if not connection.finish():
                drain.clean = False
                self.note("cut", "client cut at the deadline of a drain", uid=connection.peer.uid)
        self._settle()

    def _resume(self) -> None:
        if self._drain is not None:
            self._drain.clean = False
            self._drain.over.set()
            self._drain = None
        self._gate.open()

    def _shut(self) -> None:
        self._gate.shut()
        if self._drain is not None:
            self._cut(self._drain)
        for connection in list(self._connections):
            connection.finish()

    def _broken(self, error: BaseException) -> None:
        self.note("failures", "error outside of any connection", error=repr(error))
