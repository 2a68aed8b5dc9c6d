"""The command line that every daemon has: serve, check-config, example-config, and its own tools.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from plugins.core import config, log, sockets
from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError, NodeplugError
from plugins.core.plugin import DaemonSpec, state_dir

C = TypeVar("C", bound=DaemonConfig)


def main(spec: DaemonSpec[C], argv: Sequence[str]) -> int:
    """Run one subcommand of a daemon; returns the exit code."""
    args = _parser(spec).parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except ConfigError as error:
        print(f"nodeplug {spec.name}: {error.message}", file=sys.stderr)
        return 2
    except NodeplugError as error:
        print(
            f"nodeplug {spec.name}: {error.message}" + (f" ({error.detail})" if error.detail else ""), file=sys.stderr
        )
        return 1


def _parser(spec: DaemonSpec[C]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"nodeplug {spec.name}", description=spec.summary)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    check = commands.add_parser("check-config", help="say what would run, or what is wrong")
    for command in (serve, check):
        add_config_options(command)
    serve.set_defaults(run=lambda args: _serve(spec, args))
    check.set_defaults(run=lambda args: _check(spec, args))

    example = commands.add_parser("example-config", help="print a complete configuration with comments")
    example.set_defaults(run=lambda args: _example(spec))
    if spec.tools is not None:
        spec.tools(commands)
    return parser


def add_config_options(command: argparse.ArgumentParser) -> None:
    """The options by which a command finds its configuration; for tools too."""
    command.add_argument("--config", type=Path, metavar="FILE", help="TOML file; see example-config")
    command.add_argument("--kubelet-dir", metavar="DIR", help="the kubelet's directory (/var/lib/kubelet)")
    command.add_argument("--state-dir", metavar="DIR", help="the daemon's own directory")
    command.add_argument("--socket", metavar="PATH", help="the public socket")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the configuration")


def load_config(spec: DaemonSpec[C], args: argparse.Namespace) -> C:
    """The configuration that the options of `add_config_options` name. Raises ConfigError."""
    flags = (("kubelet_dir", args.kubelet_dir), ("state_dir", args.state_dir), ("socket", args.socket))
    overrides = [f"{key}={value}" for key, value in flags if value is not None] + args.set
    return config.load(spec.config, spec.name, file=args.config, environ=os.environ, overrides=overrides)


def _serve(spec: DaemonSpec[C], args: argparse.Namespace) -> int:
    from plugins.core.daemon import Daemon  # grpc and all: only for a command that serves

    loaded = load_config(spec, args)
    _check_sockets(spec, loaded)
    log.setup(loaded.log_level)
    daemon = Daemon(spec, lambda: load_config(spec, args), args.config)
    return daemon.run()


def _check(spec: DaemonSpec[C], args: argparse.Namespace) -> int:
    loaded = load_config(spec, args)
    _check_sockets(spec, loaded)
    facts = [f"state directory {state_dir(loaded, spec.name)}", *spec.describe(loaded)]
    print(f"nodeplug {spec.name}: the configuration is valid")
    for fact in facts:
        print(f"  {fact}")
    return 0


def _check_sockets(spec: DaemonSpec[C], loaded: C) -> None:
    for path in spec.sockets(loaded):
        sockets.check_path(path)


def _example(spec: DaemonSpec[C]) -> int:
    print(config.example(spec.config, spec.name), end="")
    return 0
