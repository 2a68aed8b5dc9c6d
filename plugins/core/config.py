"""Configuration: one TOML file per daemon, then the environment, then flags; the later one wins.

A daemon's configuration is a frozen msgspec Struct that extends `DaemonConfig`. Types check the values,
`Annotated[..., Meta(description=...)]` documents them, and both the example file and the errors come from there.
Environment: NODEPLUG_<DAEMON>_<FIELD>, with "__" between the names of nested fields. Flags: --set field.nested=value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from plugins.core.errors import ConfigError
from plugins.core.units import Bytes, Mode, Seconds

Uid = Annotated[int, Meta(ge=0, le=2**32 - 2)]


class DaemonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every daemon has."""

    kubelet_dir: Annotated[
        Path, Meta(description="The kubelet's directory: plugins, plugins_registry and pods lie below it.")
    ] = Path("/var/lib/kubelet")
    state_dir: Annotated[
        Path | None,
        Meta(description="Lock, store and control socket of this daemon. Unset: /var/lib/nodeplug/<daemon>."),
    ] = None
    socket: Annotated[Path | None, Meta(description="The public socket. Unset: the daemon's usual place.")] = None
    socket_mode: Annotated[Mode, Meta(description="Mode of the public sockets.")] = Mode(0o600)
    socket_gid: Annotated[int, Meta(ge=-1, description="Group of the public sockets; -1 leaves it.")] = -1
    allow_uids: Annotated[
        tuple[Uid, ...], Meta(description="Users that may connect (SO_PEERCRED), besides the one this daemon runs as.")
    ] = (0,)
    allow_gids: Annotated[tuple[Uid, ...], Meta(description="Groups whose members may connect.")] = ()
    log_level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")
    ] = "info"
    http_listen: Annotated[
        str,
        Meta(
            pattern=r"^$|^[^ ]*:\d+$",
            description='Address "host:port" for /healthz, /readyz and /metrics; empty: no network listener.',
        ),
    ] = ""
    grace: Annotated[Seconds, Meta(description="At a stop: how long calls under way may take to finish.")] = Seconds(20)
    stop_deadline: Annotated[
        Seconds, Meta(description="At a stop: when the process ends whatever happens; below the pod's grace period.")
    ] = Seconds(28)
    handover_timeout: Annotated[
        Seconds,
        Meta(description="At an upgrade: how long the new process may take before the old one takes over again."),
    ] = Seconds(30)


C = TypeVar("C", bound=DaemonConfig)


def load(
    schema: type[C], daemon: str, *, file: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()
) -> C:
    """Read and check a daemon's configuration.

    Args:
        schema: the daemon's configuration type.
        daemon: its name; the environment prefix follows from it.
        file: the TOML file; None: defaults only.
        overrides: "key=value" texts, keys dotted.

    Raises:
        ConfigError: what is wrong, where, and for an unknown key the nearest known one.
    """
    data = _read(file) if file else {}
    origin = str(file) if file else "defaults"
    _check_keys(data, msgspec.inspect.type_info(schema), origin, "")
    for key, text, source in [*_from_environment(environ, daemon), *_from_flags(overrides)]:
        value = _nested(key, _value(text))
        _check_keys(value, msgspec.inspect.type_info(schema), source, "")
        _merge(data, value)
    try:
        return msgspec.convert(data, schema, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"configuration ({origin}): {error}") from error


def example(schema: type[DaemonConfig], daemon: str) -> str:
    """A complete configuration file with every default and a comment on every key."""
    info = msgspec.inspect.type_info(schema)
    assert isinstance(info, msgspec.inspect.StructType)
    lines = [f"# Configuration of `nodeplug {daemon}`. Every value below is the default.", ""]
    lines += _example_lines(info, "")
    return "\n".join(lines).rstrip() + "\n"


def _read(file: Path) -> dict[str, Any]:
    import tomllib  # a daemon without a file never needs it

    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"configuration file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file} is not valid TOML: {error}") from error


def _from_environment(environ: Mapping[str, str], daemon: str) -> Iterator[tuple[str, str, str]]:
    prefix = f"NODEPLUG_{daemon.upper()}_"
    for name in sorted(environ):
        if name.startswith(prefix):
            yield name[len(prefix) :].lower().replace("__", "."), environ[name], f"environment variable {name}"


def _from_flags(overrides: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text!r}: expected key=value")
        yield key.strip(), value, f"--set {key}"


def _value(text: str) -> Any:
    """TOML for lists, tables and quoted text; anything else is text that the type of the field converts."""
    if text[:1] in ("[", "{", '"', "'"):
        import tomllib

        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{text!r} is not a valid TOML value: {error}") from error
    return text


def _nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _decode(kind: type, value: Any) -> Any:
    if kind in (Bytes, Mode, Seconds):
        return kind.parse(value)
    if issubclass(kind, Path):
        if not isinstance(value, str):
            raise ValueError(f"expected a path, got {value!r}")
        return Path(value)
    raise NotImplementedError(kind)


def _check_keys(data: Any, kind: msgspec.inspect.Type, origin: str, where: str) -> None:
    """Name an unknown key together with the nearest known one, at any depth."""
    for inner in _alternatives(kind):
        if isinstance(inner, msgspec.inspect.StructType) and isinstance(data, dict):
            fields = {f.encode_name: f.type for f in inner.fields}
            for name, value in data.items():
                if name not in fields:
                    raise ConfigError(_unknown(origin, where + name, name, list(fields)))
                _check_keys(value, fields[name], origin, f"{where}{name}.")
        elif isinstance(inner, msgspec.inspect.DictType) and isinstance(data, dict):
            for name, value in data.items():
                _check_keys(value, inner.value_type, origin, f"{where}{name}.")
        elif isinstance(inner, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)) and isinstance(data, list):
            for index, value in enumerate(data):
                _check_keys(value, inner.item_type, origin, f"{where.rstrip('.')}[{index}].")


def _alternatives(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _alternatives(kind.type)
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _unknown(origin: str, path: str, name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"configuration ({origin}): unknown key {path!r}; {hint}"


def _example_lines(info: msgspec.inspect.StructType, prefix: str) -> list[str]:
    lines: list[str] = []
    tables: list[str] = []
    for field in info.fields:
        kind, description = _described(field.type)
        default = _default(field)
        if isinstance(kind, msgspec.inspect.StructType):
            tables += [f"# {description}"] if description else []
            tables += [f"[{prefix}{field.encode_name}]", *_example_lines(kind, f"{prefix}{field.encode_name}."), ""]
            continue
        lines += [f"# {description}"] if description else []
        text = _toml(default)
        lines.append(f"# {field.encode_name} =" if text is None else f"{field.encode_name} = {text}")
    return [*lines, "", *tables]


def _described(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, str]:
    description = ""
    while isinstance(kind, msgspec.inspect.Metadata):
        description = description or (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    return kind, description


def _default(field: msgspec.inspect.Field) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else None


def _toml(value: Any) -> str | None:
    """A value in TOML; None for "no default"."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (Bytes, Mode, Seconds, Path, str)):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(filter(None, map(_toml, value))) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return str(value)
