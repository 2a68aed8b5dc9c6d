"""The pool in numbers, for Prometheus: what they say is what the pool has at that moment."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Callable

import pytest

from plugins.api.csi.v1 import csi_pb2 as pb
from tests.system.csi.kit import Driver

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")


def values(port: int) -> dict[str, float]:
    """Every line of /metrics by what stands before its number."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


def pool(found: dict[str, float], what: str) -> float:
    """One number of the pool."""
    return found[f'nodeplug_csi_pool_{what}_bytes{{pool="default"}}']


def test_the_numbers_follow_the_pool(make_driver: Callable[..., Driver]) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    driver = make_driver(f"http_listen=127.0.0.1:{port}", "trim_interval=0").start()
    before = values(port)
    volume = driver.create("block", size=64 << 20)
    after = values(port)
    assert (pool(before, "promised"), pool(after, "promised")) == (0, 64 << 20)
    capacity = driver.controller.GetCapacity(pb.GetCapacityRequest()).available_capacity
    assert pool(after, "available") == capacity == pool(before, "available") - (64 << 20)
    status = os.statvfs(driver.pool)
    assert pool(after, "size") <= status.f_blocks * status.f_frsize
    assert 0 < pool(after, "free") <= pool(after, "size")
    assert any("CreateVolume" in name and name.startswith("nodeplug_rpc_seconds_count") for name in after)
    driver.delete(volume)
    assert pool(values(port), "promised") == 0
