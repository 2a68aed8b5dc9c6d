"""What all tests share: short folders for sockets, an account of skipped tests, a look at what was left behind."""

from __future__ import annotations

import collections
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tools import leaks

REQUIRE_ALL = os.environ.get("NODEPLUG_REQUIRE_ALL", "") not in ("", "0")
MISSING_TOOL = re.compile(r"not installed|missing tool|no such program|not on (the )?PATH|could not import", re.I)
"""Reasons of skips that mean "install something": failures where everything has to be there."""

# A busy machine is no fault of the code. Where everything has to be there a run also has to say the same twice.
settings.register_profile("nodeplug", deadline=None, derandomize=REQUIRE_ALL)
settings.load_profile("nodeplug")

_SESSION = f"NODEPLUG_TEST_SESSION={os.getpid()}-{os.urandom(4).hex()}"
_roots: list[str] = []
_skips: collections.Counter[str] = collections.Counter()
_counts: collections.Counter[str] = collections.Counter()
_failures: list[str] = []


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a path short enough for sockets (sun_path ends at 107 bytes; tmp_path may be longer)."""
    folder = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that sets up logging, or runs a command that does, changes nothing for the next one."""
    logger = logging.getLogger("nodeplug")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1:]


def pytest_configure(config: pytest.Config) -> None:
    """Make everything that this session starts or makes recognisable: other sessions may run beside it."""
    name, _, value = _SESSION.partition("=")
    os.environ[name] = value
    make = tempfile.mkdtemp

    def recording(*args: Any, **kwargs: Any) -> Any:
        path = make(*args, **kwargs)
        _roots.append(os.fsdecode(path))
        return path

    tempfile.mkdtemp = recording
    tempfile.gettempdir()  # settled before TMPDIR is set: pytest's own folders stay where they are
    os.environ["TMPDIR"] = recording(prefix=leaks.PREFIX, dir="/tmp")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """A skip for a missing tool counts as a failure where everything has to be there."""
    report = yield
    _demand(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for modules that skip as a whole."""
    report = yield
    _demand(report)
    return report


def _demand(report: Any) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = _reason(report)
    if REQUIRE_ALL and MISSING_TOOL.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}; here everything has to be installed"


def _reason(report: Any) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count: one outcome a test, whatever the phase that decided it."""
    if report.failed:
        _failures.append(report.nodeid)
        _counts["failed"] += 1
    elif report.skipped:
        _skips[_reason(report)] += 1
        _counts["skipped"] += 1
    elif report.when == "call":
        _counts["passed"] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """The same for whole modules."""
    if report.failed:
        _failures.append(report.nodeid)
        _counts["failed"] += 1
    elif report.skipped:
        _skips[_reason(report)] += 1
        _counts["skipped"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing of this session may be left: else it fails, and says what. The account goes to the runner, if any."""
    left = leaks.settle(lambda: _left(session.config))
    _counts["failed"] += len(left)
    _failures.extend(f"left behind: {line}" for line in left)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if account := os.environ.get("NODEPLUG_TEST_ACCOUNT"):
        Path(account).write_text(json.dumps({**_counts, "skips": _skips, "failures": _failures}))


def _left(config: pytest.Config) -> list[str]:
    """What exists of this session's processes, and in or under the folders that it made."""
    base = getattr(getattr(config, "_tmp_path_factory", None), "_basetemp", None)
    now = leaks.below([*_roots, *([str(base)] if base else [])], leaks.snapshot())
    now["folder"].pop(os.environ["TMPDIR"], None)
    inside = {str(path): "in TMPDIR" for path in Path(os.environ["TMPDIR"]).glob("*")}
    return leaks.new({}, {**now, "folder": now["folder"] | inside, "process": leaks.processes(_SESSION)})


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each reason of a skip, and for each thing left behind."""
    if _skips:
        terminalreporter.section("skipped")
        for reason, count in sorted(_skips.items()):
            terminalreporter.write_line(f"{count:4}  {reason}")
    for line in _failures:
        if line.startswith("left behind: "):
            terminalreporter.write_line(line, red=True)
