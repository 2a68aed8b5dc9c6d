"""Rules of the house that neither ruff nor the import contracts can see."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("plugins", "tests", "tools", "benchmarks")
GENERATED = ROOT / "plugins" / "api"
LIMIT = 300  # lines of a file

_TEXT = (".py", ".md", ".toml", ".txt", ".proto", ".yaml", ".yml", ".json", ".sh", ".svg", "")
_PLACES = re.compile(r"(?<![\w})\]])/(?:(?:root|home|Users)/[a-z]|work/|opt/wheels)|\.pyenv")
_INDEXES = re.compile("|".join(("--(?:extra-)?index-url", "find-links", r"pypi\.org/simple", "files\\.pythonhosted")))
_UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")


def sources(*packages: str) -> Iterator[Path]:
    """The Python files that people write."""
    for package in packages or PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if GENERATED not in path.parents:
                yield path


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call in a file."""
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def kept() -> list[Path]:
    """Every text file under version control, outside the generated code."""
    try:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in _TEXT and GENERATED not in path.parents]


def where(path: Path, text: str, position: int) -> str:
    """file:line of a match."""
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, position) + 1}"


def matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Where a pattern occurs."""
    found = []
    for path in paths:
        text = path.read_text()
        found += [f"{where(path, text, m.start())}: {m.group()}" for m in pattern.finditer(text)]
    return found


def test_no_file_grows_past_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > LIMIT} == {}


def test_there_is_one_way_to_a_subprocess() -> None:
    """grpcio's threads do not survive a fork, and no shell ever sees a request's text."""
    faults = []
    for path in sources("plugins"):
        for call in calls(path):
            name = ast.unparse(call.func)
            words = {keyword.arg for keyword in call.keywords}
            forked = name in {"os.fork", "os.forkpty", "os.system", "os.popen", "pty.fork"}
            risky = name.startswith("subprocess.") and words & {"shell", "preexec_fn", "user", "group", "extra_groups"}
            if forked or risky:
                faults.append(f"{path.relative_to(ROOT)}:{call.lineno}: {name}")
    assert faults == []


def test_daemons_reach_programs_through_command_run() -> None:
    """The lab, the demo and tests/ start whole daemons, which is another matter."""
    starters = ("plugins/lab/", "plugins/demo/", "plugins/core/command.py")
    users = [str(path.relative_to(ROOT)) for path in sources("plugins") if "subprocess" in imported(path)]
    assert [name for name in users if not name.startswith(starters)] == []


def imported(path: Path) -> set[str]:
    """The names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_module_says_what_it_is() -> None:
    modules = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sources()}
    assert [name for name, module in modules.items() if module.body and not ast.get_docstring(module)] == []


def test_nothing_is_left_unfinished() -> None:
    assert matches(_UNFINISHED, kept()) == []


def test_no_file_knows_a_machine_or_a_package_index() -> None:
    assert matches(_PLACES, [path for path in kept() if path != Path(__file__).resolve()]) == []
    assert matches(_INDEXES, [path for path in kept() if path != Path(__file__).resolve()]) == []


def test_the_pins_agree_with_the_project() -> None:
    """Every direct dependency is pinned, so that a set-up next year installs what was tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(w for group in project["optional-dependencies"].values() for w in group)]
    names = {re.split(r"[\[<>=!~ ]", want)[0].lower().replace("_", "-") for want in wanted} - {"nodeplug"}
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", pin)] == []
    assert names - {pin.partition("==")[0].lower().replace("_", "-") for pin in pins} == set()
