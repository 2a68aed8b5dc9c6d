"""What a relay in front of grpcio costs a call, by form; the figures of docs/decisions/0002-acceptor.md.

    python benchmarks/acceptor_forms.py [--launches N] [--rounds N] [--calls N] [--callers N] [--pace SECONDS]

Each form is a process with the same echo server. In every round each form gets a batch of calls, in random order, and
is compared with the bare server of that round. Where the kernel happens to put the threads of a process stays for its
life and is worth several per cent, so all processes are started anew several times.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import stats  # noqa: E402 - the folder is on the path only now

MESSAGE = b"x" * 100
METHOD = "/bench.Echo/Echo"


# The forms: each serves on `public`, with grpcio behind it on `private`.


def bare(public: str, _private: str) -> None:
    """grpcio on the public socket itself."""
    grpc_server(public)


def loop(public: str, private: str) -> None:
    """plugins.core.acceptor as it is: one epoll thread in the process of the server."""
    grpc_server(private)
    accept(listener(public), private)


def process(public: str, private: str) -> None:
    """The same acceptor in a process of its own, without grpcio."""
    grpc_server(private)
    public_socket = listener(public)
    number = public_socket.fileno()
    argv = [sys.executable, __file__, "--form", "relay_only", "--place", public, private, "--descriptor", str(number)]
    KEPT.append(subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=[number]))  # ends with this process


def relay_only(_public: str, private: str) -> None:
    """The other half of `process`."""
    accept(socket.socket(fileno=ARGS.descriptor), private)


def threads(public: str, private: str) -> None:
    """Two threads per connection, blocking; the frames are followed, but nothing is limited or drained."""
    grpc_server(private)
    threading.Thread(target=_pair_up, args=(listener(public), private), daemon=True).start()


def unparsed(public: str, private: str) -> None:
    """One epoll thread that only moves bytes: the floor of that form."""
    grpc_server(private)
    threading.Thread(target=_move, args=(listener(public), private), daemon=True).start()


FORMS = {form.__name__: form for form in (bare, loop, threads, process, unparsed)}


def grpc_server(path: str) -> None:
    """An echo server with eight workers; lives as long as the process."""
    import grpc

    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    KEPT.append(server)


def listener(path: str) -> socket.socket:
    """A public socket."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen(128)
    return made


def accept(public: socket.socket, private: str) -> None:
    """Start the project's acceptor."""
    from plugins.core.acceptor import Acceptor, PeerPolicy

    acceptor = Acceptor(PeerPolicy(frozenset({os.getuid()})), name="bench")
    acceptor.add(public, private)
    acceptor.start()
    KEPT.append(acceptor)


def _pair_up(public: socket.socket, private: str) -> None:
    from plugins.core.acceptor.frames import PREFACE, FrameTracker

    while True:
        client, _ = public.accept()
        backend = socket.socket(socket.AF_UNIX)
        backend.connect(private)
        for source, sink, skip in ((client, backend, len(PREFACE)), (backend, client, 0)):
            threading.Thread(target=_pump, args=(source, sink, FrameTracker(skip).feed), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, feed: Callable[[memoryview], object]) -> None:
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while size := source.recv_into(buffer):
        sink.sendall(view[:size])
        feed(view[:size])
    sink.shutdown(socket.SHUT_RDWR)


def _move(public: socket.socket, private: str) -> None:
    import select

    epoll, ways = select.epoll(), dict[int, tuple[socket.socket, socket.socket]]()
    epoll.register(public, select.EPOLLIN)
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while True:
        for descriptor, _ in epoll.poll(-1, 64):
            if descriptor == public.fileno():
                client, _ = public.accept()
                backend = socket.socket(socket.AF_UNIX)
                backend.connect(private)
                for source, sink in ((client, backend), (backend, client)):
                    ways[source.fileno()] = (source, sink)
                    epoll.register(source, select.EPOLLIN)
                continue
            source, sink = ways[descriptor]
            if size := source.recv_into(buffer):
                sink.send(view[:size])
            else:
                epoll.unregister(source)


@dataclass
class Results:
    """Of one form: pairs with the bare server of the same round, and what it costs at rest."""

    ratios: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    by_launch: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@dataclass
class Running:
    """One form's process and a channel to it."""

    name: str
    process: subprocess.Popen[bytes]
    call: Callable[[bytes], bytes]

    def pids(self) -> list[int]:
        """The process and its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def cpu(self) -> float:
        """Seconds of processor time so far, all its processes together."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in self.pids()]
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")

    def pss(self) -> float:
        """MiB in proportion, all its processes together; shared pages count less the more forms run beside it."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(each.partition("\nPss:")[2].split()[0]) for each in rollups) / 1024

    def batch(self) -> float:
        """The median of a batch of calls, in ms."""
        times: list[float] = []

        def calls() -> None:
            for _ in range(ARGS.calls):
                began = time.perf_counter()
                self.call(MESSAGE)
                times.append(time.perf_counter() - began)
                if ARGS.pace:
                    time.sleep(ARGS.pace)

        callers = [threading.Thread(target=calls) for _ in range(ARGS.callers - 1)]
        for caller in callers:
            caller.start()
        calls()
        for caller in callers:
            caller.join()
        return statistics.median(times) * 1000


def start(name: str, folder: Path) -> Running:
    """Start a form and connect to it."""
    import grpc

    place = str(folder / name)
    argv = [sys.executable, __file__, "--form", name, "--place", place, f"{place}.private"]
    started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost")]
    channel = grpc.insecure_channel(f"unix:{place}", options=options)
    grpc.channel_ready_future(channel).result(20)
    call: Any = channel.unary_unary(METHOD)
    return Running(name, started, call)


def launch(results: dict[str, Results], names: list[str]) -> None:
    """One start of all forms, and all its rounds."""
    with tempfile.TemporaryDirectory(prefix="np-forms-") as folder:
        forms = [start(name, Path(folder)) for name in names]
        try:
            for form in forms:
                results[form.name].memory.append(form.pss())
                form.batch()
            first = {form.name: len(results[form.name].ratios) for form in forms}
            for _ in range(ARGS.rounds):
                _round(results, forms)
            for form in forms:
                results[form.name].by_launch.append(statistics.median(results[form.name].ratios[first[form.name] :]))
        finally:
            for form in forms:
                form.process.terminate()
                form.process.wait()


def _round(results: dict[str, Results], forms: list[Running]) -> None:
    found: dict[str, float] = {}
    for form in random.sample(forms, len(forms)):
        used = form.cpu()
        found[form.name] = form.batch()
        results[form.name].cpu.append((form.cpu() - used) / ARGS.calls / ARGS.callers * 1e6)
    for name, value in found.items():
        results[name].ratios.append(value / found["bare"])
        results[name].added.append(value - found["bare"])


def main() -> None:
    """Print a line for each form."""
    names = ARGS.forms.split(",")
    results = {name: Results() for name in names}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for _ in range(ARGS.launches):
        launch(results, names)
    print(f"{'form':<9} {'ratio (95 %)':<22} {'by launch':<13} {'added':<10} {'cpu/call':<9} idle PSS")
    for name, found in results.items():
        middle = stats.median(found.ratios)
        interval = f"{middle.value:.3f} ({middle.low or 0:.3f} to {middle.high or 0:.3f})"
        spread = f"{min(found.by_launch):.2f} to {max(found.by_launch):.2f}"
        added, cpu, memory = map(statistics.median, (found.added, found.cpu, found.memory))
        print(f"{name:<9} {interval:<22} {spread:<13} {added:+.3f} ms {cpu:5.0f} us  {memory:.1f} MiB")
    print(f"{len(results['bare'].ratios)} pairs each; load after: {os.getloadavg()[0]:.1f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=150, help="in a batch, per caller")
    parser.add_argument("--callers", type=int, default=1, help="threads that call at once")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two calls")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--place", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


KEPT: list[object] = []

if __name__ == "__main__":
    ARGS = _arguments()
    if ARGS.form:
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        {**FORMS, "relay_only": relay_only}[ARGS.form](*ARGS.place)
        print("up", flush=True)
        sys.stdin.read()  # until whoever started this has gone
    else:
        main()
