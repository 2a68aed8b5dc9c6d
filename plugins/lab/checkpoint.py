"""The file in which the kubelet remembers, over its restarts, resource names and who holds which device.

Name, place and structure are the kubelet's (kubelet_internal_checkpoint, JSON), since some plugins read it. The
checksum is not: the kubelet's is a hash of Go's textual form of the data.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugins.lab.devicestate import DeviceInfo, DeviceState, Held, Holder

NAME = "kubelet_internal_checkpoint"
_NO_TOPOLOGY = -1


def save(path: Path, state: DeviceState) -> None:
    """Write it durably: to a temporary file, fsync, rename."""
    registered, held = state.snapshot()
    entries = [
        {
            "PodUID": pod,
            "ContainerName": container,
            "ResourceName": resource,
            "DeviceIDs": _by_node(of.devices, state.devices(resource)),
            "AllocResp": base64.b64encode(of.response).decode(),
        }
        for (pod, container), resources in held.items()
        for resource, of in resources.items()
    ]
    data = {"PodDeviceEntries": entries, "RegisteredDevices": registered}
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        json.dump({"Data": data, "Checksum": _checksum(data)}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def load(path: Path, state: DeviceState) -> None:
    """Fill the books; a file that is not there, or damaged, leaves them empty, as the kubelet does."""
    try:
        document = json.loads(path.read_text())
        data = document["Data"]
        if document["Checksum"] != _checksum(data):
            return
    except (OSError, ValueError, KeyError):
        return
    held: dict[Holder, dict[str, Held]] = {}
    for entry in data["PodDeviceEntries"]:
        devices = frozenset(d for ids in entry["DeviceIDs"].values() for d in ids)
        of = held.setdefault((entry["PodUID"], entry["ContainerName"]), {})
        of[entry["ResourceName"]] = Held(devices, base64.b64decode(entry["AllocResp"]))
    state.load(data["RegisteredDevices"], held)


def _by_node(ids: frozenset[str], devices: Mapping[str, DeviceInfo]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for device in sorted(ids):
        nodes = devices[device].nodes if device in devices else ()
        for node in nodes or (_NO_TOPOLOGY,):
            result.setdefault(str(node), []).append(device)
    return result


def _checksum(data: Any) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())
