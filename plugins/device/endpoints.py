"""Where the sockets of a resource lie.

The name of a socket is unique on the node and the same for each process on one state directory: a hand-over passes it
on, a restart finds it again, and a second daemon beside this one gets another. The kubelet keeps device-plugins flat.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from plugins.device.resources import Rule

_READABLE = 24  # characters of the resource name; with the usual kubelet_dir a path then has 80 of the 107 allowed
_UNIQUE = 8  # hexadecimal digits that tell one daemon's sockets from another's


def kubelet_socket(kubelet_dir: Path) -> Path:
    """Where the kubelet takes registrations."""
    return kubelet_dir / "device-plugins" / "kubelet.sock"


def device_plugin_socket(kubelet_dir: Path, state_dir: Path, rule: Rule) -> Path:
    """The resource's own socket, in the folder that the kubelet wants it in."""
    return kubelet_dir / "device-plugins" / f"{_stem(state_dir, rule)}.sock"


def registry_socket(kubelet_dir: Path, state_dir: Path, rule: Rule) -> Path:
    """The socket that the kubelet's plugin watcher finds; it serves the resource too."""
    return kubelet_dir / "plugins_registry" / f"{_stem(state_dir, rule)}-reg.sock"


def likeness(kubelet_dir: Path, rule: Rule) -> Path:
    """A path as long as that of the resource's socket, for a check before there is a state directory."""
    stem = f"nodeplug-{rule.name[:_READABLE]}-{'x' * _UNIQUE}"
    if rule.style == "watcher":
        return kubelet_dir / "plugins_registry" / f"{stem}-reg.sock"
    return kubelet_dir / "device-plugins" / f"{stem}.sock"


def _stem(state_dir: Path, rule: Rule) -> str:
    # Device and inode: two containers may give different folders the same name.
    place = state_dir.stat()
    unique = hashlib.sha256(f"{place.st_dev}:{place.st_ino}:{rule.full_name}".encode()).hexdigest()[:_UNIQUE]
    return f"nodeplug-{rule.name[:_READABLE]}-{unique}"
