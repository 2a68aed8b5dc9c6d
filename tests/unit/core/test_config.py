"""Configuration: file, environment and flags; what is wrong is named, with the nearest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from plugins.core import config
from plugins.core.config import DaemonConfig
from plugins.core.errors import ConfigError
from plugins.core.units import Bytes, Mode, Seconds


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Path = Path("/pool")
    size: Annotated[Bytes, Meta(description="How large.")] = Bytes(10 << 30)


class Example(DaemonConfig, frozen=True, kw_only=True):
    pool: Annotated[Pool, Meta(description="Where volumes live.")] = Pool()
    pools: tuple[Pool, ...] = ()
    limit: Annotated[int, Meta(ge=0)] = 0
    strict: bool = False


def load(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, *flags: str) -> Example:
    file = tmp_path / "example.toml"
    file.write_text(text)
    return config.load(Example, "example", file=file, environ=environ or {}, overrides=flags)


def test_without_anything_every_value_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path) == Example()


def test_environment_wins_over_file_and_flags_over_environment(tmp_path: Path) -> None:
    text = 'limit = 1\nstrict = true\n[pool]\nsize = "1GiB"\npath = "/a"\n'
    environ = {"NODEPLUG_EXAMPLE_LIMIT": "2", "NODEPLUG_EXAMPLE_POOL__SIZE": "2GiB", "NODEPLUG_OTHER_LIMIT": "9"}
    loaded = load(tmp_path, text, environ, "pool.size=3GiB")
    assert (loaded.limit, loaded.strict, loaded.pool) == (2, True, Pool(path=Path("/a"), size=Bytes(3 << 30)))


def test_the_example_is_complete_and_equal_to_the_defaults(tmp_path: Path) -> None:
    text = config.example(Example, "example")
    assert load(tmp_path, text) == Example()
    for name in ("kubelet_dir", "socket_mode", "grace", "limit", "[pool]", "size"):
        assert name in text
    assert "# Where volumes live." in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limt = 1", "unknown key 'limt'; did you mean 'limit'?"),
        ("[pool]\nsise = 1", "unknown key 'pool.sise'; did you mean 'size'?"),
        ("[[pools]]\n[[pools]]\npaht = 1", "unknown key 'pools[1].paht'; did you mean 'path'?"),
        ("zzzzzz = 1", "known keys: "),
        ("limit = -1", "$.limit"),
        ('grace = "soon"', "expected a duration"),
        ('socket_mode = "0999"', "expected a file mode"),
        ("limit = [", "is not valid TOML"),
        ('pool = "x"', "Expected `object`"),
        ("pool.path = { a = 1 }", "expected a path"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert expected in error.value.message
    assert "example.toml" in error.value.message


def test_an_unknown_environment_variable_or_flag_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"NODEPLUG_EXAMPLE_LIMT.*did you mean 'limit'"):
        load(tmp_path, "", {"NODEPLUG_EXAMPLE_LIMT": "1"})
    with pytest.raises(ConfigError, match=r"--set stric.*did you mean 'strict'"):
        load(tmp_path, "", {}, "stric=true")
    with pytest.raises(ConfigError, match="expected key=value"):
        load(tmp_path, "", {}, "strict")


def test_a_missing_file_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(Example, "example", file=tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    ("text", "value"), [("10GiB", 10 << 30), ("5", 5), ("1.5K", 1500), ("2 MiB", 2 << 20), ("1TB", 10**12)]
)
def test_sizes(text: str, value: int) -> None:
    assert Bytes.parse(text) == value


@pytest.mark.parametrize("value", [0, 1, 1023, 1024, 1536, 10 << 30, 2**63])
def test_a_size_as_text_is_exact(value: int) -> None:
    assert Bytes.parse(str(Bytes(value))) == value


@pytest.mark.parametrize("text", ["", "-1", "GiB", "1XB", "1e3", "ten"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        Bytes.parse(text)


@pytest.mark.parametrize(("text", "value"), [("250ms", 0.25), ("30", 30), ("5m", 300), ("1h", 3600), (2.5, 2.5)])
def test_durations(text: object, value: float) -> None:
    assert Seconds.parse(text) == pytest.approx(value)


def test_modes() -> None:
    assert Mode.parse("0660") == Mode.parse("0o660") == Mode.parse(0o660) == 0o660
    assert str(Mode(0o600)) == "0600"
