"""`nodeplug COMMAND ...`: imports the chosen part only, so that no daemon pays for the others."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

_DAEMONS = {
    "csi": "local volumes: CSI driver for the kubelet and the CSI sidecars",
    "device": "the node's devices: device plugin for the kubelet",
    "kms": "envelope encryption: KMS v2 plugin for kube-apiserver",
}
_TOOLS = {
    "demo": ("plugins.demo", "run all three against an embedded kubelet and API server"),
    "probe": ("plugins.core.probe", "ask a daemon's socket for its health"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 1 failed, 2 wrong usage or configuration)."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `nodeplug ... | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in _DAEMONS:
        from plugins.core import cli

        return cli.main(importlib.import_module(f"plugins.{command}.wiring").SPEC, rest)
    if command in _TOOLS:
        code: int = importlib.import_module(_TOOLS[command][0]).main(rest)
        return code
    if command == "--version":
        from importlib.metadata import version

        print(f"nodeplug {version('nodeplug')}")
        return 0
    wrong = command not in ("-h", "--help", "help")
    print(_usage(command if wrong else ""), file=sys.stderr if wrong else sys.stdout)
    return 2 if wrong else 0


def _usage(unknown: str) -> str:
    commands = {**_DAEMONS, **{name: text for name, (_, text) in _TOOLS.items()}}
    lines = [f"nodeplug: there is no command {unknown!r}", ""] if unknown else []
    lines += ["usage: nodeplug COMMAND [...]", ""]
    lines += [f"  {name:<8} {text}" for name, text in commands.items()]
    return "\n".join([*lines, "", "nodeplug COMMAND --help tells more."])
