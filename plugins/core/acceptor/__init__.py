"""In front of gRPC on every socket: who may connect, how much they may take, and hand-over.

gRPC's own server neither looks at SO_PEERCRED nor ends its connections without losing a call, and
a call that is never finished holds one of its threads. So the daemon owns the public listening
sockets, and bytes are relayed to gRPC on a private one (docs/decisions/0002-acceptor.md).
"""

from plugins.core.acceptor.acceptor import Acceptor
from plugins.core.acceptor.limits import Limits
from plugins.core.acceptor.peers import PeerPolicy, uid_of
from plugins.core.acceptor.stats import Stats

__all__ = ["Acceptor", "Limits", "PeerPolicy", "Stats", "uid_of"]
