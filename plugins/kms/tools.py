"""Commands for people: make a keyring, rotate it, list its keys, ask a running daemon.

Exit codes: 0 done (status: healthy); 1 not done, or not healthy; 2 wrong usage, or a keyring that cannot be used;
3 (status) nobody answers at the socket.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugins.kms.document import Document, KeyRecord

DEFAULT_KEYRING = Path("/etc/nodeplug/kms/keyring.json")
DEFAULT_PROVIDER = "nodeplug"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add init, rotate, keys and status to the command line of `nodeplug kms`."""
    init = _keyring_command(commands, "init", "make a keyring with a first key; refuses to overwrite")
    init.add_argument("--cluster", metavar="NAME", help="id of the cluster, part of every envelope (default: random)")
    init.add_argument(
        "--provider", default=DEFAULT_PROVIDER, metavar="NAME", help=f"provider name ({DEFAULT_PROVIDER})"
    )
    init.add_argument("--owner", default="", metavar="UID[:GID]", help="user that the daemon runs as (default: you)")
    init.set_defaults(run=_init)

    rotate = _keyring_command(commands, "rotate", "make a new key active; the old ones go on decrypting")
    step = rotate.add_mutually_exclusive_group()
    step.add_argument("--stage", action="store_true", help="several nodes, step 1: a new key that only decrypts yet")
    step.add_argument("--activate", action="store_true", help="several nodes, step 2: the staged key becomes active")
    rotate.set_defaults(run=_rotate)

    keys = _keyring_command(commands, "keys", "list key_ids and states; never key bytes")
    _output_option(keys)
    keys.set_defaults(run=_keys)

    status = commands.add_parser("status", help="ask a running daemon, without any effect on what it announces")
    status.add_argument("socket", type=Path, metavar="SOCKET")
    status.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS")
    _output_option(status)
    status.set_defaults(run=_status)


def _keyring_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.add_argument("--keyring", type=Path, default=DEFAULT_KEYRING, metavar="PATH", help=str(DEFAULT_KEYRING))
    return command


def _output_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", choices=("table", "json"), default="table")


def _init(args: argparse.Namespace) -> int:
    import os

    from plugins.kms import document
    from plugins.kms.providers import file

    uid, gid = _owner(args.owner)
    made = document.create(args.cluster or os.urandom(16).hex(), args.provider, _now())
    file.create(args.keyring, made, uid, gid)
    print(f"made {args.keyring} for cluster {made.cluster}, provider name {made.provider}")
    print(f"active key {document.active(made).key_id}")
    print("Keep a copy where a loss of this node does not reach it: without its keys the data cannot be read.")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    from plugins.kms import document
    from plugins.kms.providers import file

    step = document.stage if args.stage else document.activate if args.activate else document.rotate
    changed = file.change(args.keyring, lambda old: step(old, _now()))
    print(f"generation {changed.generation}: active key {document.active(changed).key_id}")
    if args.stage:
        staged = next(key for key in changed.keys if key.state is document.State.STAGED)
        print(f"staged key {staged.key_id}")
        print(f"Copy {args.keyring} to every control-plane node, then run `rotate --activate` and copy it again.")
    elif not args.activate:
        print("Another control-plane node reads what is written from now on once it has this file; see --stage.")
    return 0


def _keys(args: argparse.Namespace) -> int:
    from plugins.kms.providers import file

    document = file.read(args.keyring, file.trusted_by_tools(args.keyring))
    if args.output == "json":
        print(json.dumps(_as_json(document), indent=2))
        return 0
    print(f"cluster {document.cluster}   provider {document.provider}   generation {document.generation}")
    header = ("KEY_ID", "STATE", "VERSION", "CREATED", "IN THIS STATE SINCE")
    rows = [(k.key_id, k.state.value, str(k.version), _text(k.created), _text(k.changed)) for k in document.keys]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _status(args: argparse.Namespace) -> int:
    import sys

    from plugins.core.errors import Unavailable
    from plugins.kms import keyids, observe

    try:
        look = observe.look(args.socket, args.timeout)
    except Unavailable as error:
        print(f"nodeplug kms: {error.message}", file=sys.stderr)
        return 3
    status = look.status
    facts: dict[str, object] = {"version": status.version, "healthz": status.healthz, "key_id": status.key_id}
    facts |= {"key_id_hash": keyids.metric_hash(status.key_id), "generation": look.generation}
    problems = observe.problems(status)
    if args.output == "json":
        print(json.dumps({**facts, "problems": problems}, indent=2))
    else:
        for name, fact in [*facts.items(), *(("problem", text) for text in problems)]:
            print(f"{name:<12} {'-' if fact is None else fact}")
    return 1 if problems else 0


def _as_json(document: Document) -> dict[str, object]:
    return {
        "cluster": document.cluster,
        "provider": document.provider,
        "lineage": document.lineage,
        "generation": document.generation,
        "keys": [_key_as_json(key) for key in document.keys],
    }


def _key_as_json(key: KeyRecord) -> dict[str, object]:
    from plugins.kms import keyids

    return {
        "key_id": key.key_id,
        "key_id_hash": keyids.metric_hash(key.key_id),
        "state": key.state.value,
        "version": key.version,
        "epoch": key.epoch,
        "created": _text(key.created),
        "changed": _text(key.changed),
    }


def _owner(text: str) -> tuple[int, int]:
    from plugins.core.errors import ConfigError

    uid, _, gid = text.partition(":")
    if not text:
        return -1, -1
    if not uid.isdecimal() or (gid and not gid.isdecimal()):
        raise ConfigError(f"--owner {text!r}: expected numbers, such as 65532 or 65532:65532")
    return int(uid), int(gid) if gid else -1


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _text(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
