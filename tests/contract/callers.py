"""Clients that call without pause while something happens to the server, and keep what failed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from plugins.core import client


class Callers:
    """Threads that call without pause, retry or wait_for_ready; failures are kept."""

    def __init__(self, path: Path, call: Callable[[grpc.Channel], None], count: int, *, shared: bool) -> None:
        self.failures: list[str] = []
        self.calls = [0] * count
        self._stopping = False
        self._path = path
        self._call = call
        self._shared = client.channel(path) if shared else None
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        if self._shared is not None:
            self._shared.close()

    def _run(self, number: int) -> None:
        with self._channel() as channel:
            while not self._stopping:
                try:
                    self._call(channel)
                except grpc.RpcError as error:
                    self.failures.append(client.reason(error))
                self.calls[number] += 1

    @contextlib.contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        if self._shared is not None:
            yield self._shared
        else:
            with client.channel(self._path) as channel:
                yield channel
