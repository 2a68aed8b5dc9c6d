"""Generate plugins/api from protos, or check that it is up to date.

    python tools/protogen.py            write plugins/api
    python tools/protogen.py --check    compare only; exit 1 and name what differs

Each protos/<api>/<version>/<api>.proto becomes a package plugins.api.<api>.<version> with messages
(_pb2.py), services (_pb2_grpc.py) and exact types for both (.pyi). The compiler sees every file
under a virtual path, plugins/api/<api>/<version>/<api>.proto. That makes the imports between the
generated files right as they are, and keeps descriptor names apart when one process loads several
APIs. Needs the development dependencies grpcio-tools and mypy-protobuf.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = Path("plugins/api")

TOP_INIT = '"""Stubs generated from protos/ by tools/protogen.py. Change those, not these."""\n'


class GenerationError(Exception):
    """The compiler, one of its plugins, or the layout of protos/ does not allow generation."""


def sources() -> list[Path]:
    """Every proto file, relative to protos/, in a fixed order.

    Raises:
        GenerationError: there is none, or one is not at <api>/<version>/<api>.proto.
    """
    found = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
    if not found:
        raise GenerationError(f"no .proto files below {PROTOS.name}/")
    for path in found:
        if len(path.parts) != 3 or path.stem != path.parts[0]:
            raise GenerationError(f"{PROTOS.name}/{path}: expected <api>/<version>/<api>.proto")
    return found


def plugin_option(name: str) -> str:
    """The protoc option that names the executable of a compiler plugin.

    Looks beside the running interpreter first, so that a virtual environment need not be active.

    Raises:
        GenerationError: the executable is not installed.
    """
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    executable = shutil.which(name, path=places)
    if executable is None:
        raise GenerationError(f"{name} is not installed: it comes with mypy-protobuf")
    return f"--plugin={name}={executable}"


def generate(out: Path) -> None:
    """Write the whole of plugins/api below a folder.

    Args:
        out: absolute path of an existing folder that stands for the root of the repository.

    Raises:
        GenerationError: the compiler failed; what it said is part of the message.
    """
    protos = sources()
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"-I{TARGET / path.parent}={PROTOS / path.parent}" for path in protos]
    command += [plugin_option("protoc-gen-mypy"), plugin_option("protoc-gen-mypy_grpc")]
    command += [
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet,only_sync:{out}",
    ]
    command += [str(TARGET / path) for path in protos]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GenerationError(done.stderr.strip() or f"protoc ended with {done.returncode}")

    write_init(out / TARGET, TOP_INIT)
    for path in protos:
        api, version = path.parts[:2]
        write_init(out / TARGET / api, "")
        write_init(out / TARGET / api / version, f'"""Generated from protos/{path}."""\n')


def write_init(folder: Path, text: str) -> None:
    """Make a folder a package: write `text` as its __init__.py."""
    (folder / "__init__.py").write_text(text, encoding="utf-8")


def contents(root: Path) -> dict[Path, bytes]:
    """The files of plugins/api below `root`, by path relative to it, without bytecode."""
    return {
        path.relative_to(root): path.read_bytes()
        for path in sorted((root / TARGET).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def differences(want: dict[Path, bytes], have: dict[Path, bytes]) -> list[str]:
    """One line for each file that is missing, differs, or should not be there."""
    lines = []
    for path in sorted(want.keys() | have.keys()):
        if path not in have:
            lines.append(f"missing: {path}")
        elif path not in want:
            lines.append(f"not generated: {path}")
        elif want[path] != have[path]:
            lines.append(f"differs: {path}")
    return lines


def install(want: dict[Path, bytes], have: dict[Path, bytes]) -> int:
    """Make plugins/api equal to `want`: write what differs, remove the rest.

    Returns:
        How many files were written or removed.
    """
    changed = 0
    for path in have.keys() - want.keys():
        (ROOT / path).unlink()
        changed += 1
    for path, data in want.items():
        if have.get(path) != data:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_bytes(data)
            changed += 1
    return changed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program name; those of the process if None.

    Returns:
        The exit status: 0, 1 if --check found differences, 2 if generation failed.
    """
    parser = argparse.ArgumentParser(description="Generate plugins/api from protos.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on differences")
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory(prefix="protogen-") as folder:
        try:
            generate(Path(folder))
        except GenerationError as error:
            print(f"protogen: {error}", file=sys.stderr)
            return 2
        want = contents(Path(folder))
    have = contents(ROOT)

    if not options.check:
        print(f"{TARGET}: {install(want, have)} of {len(want)} files changed")
        return 0
    lines = differences(want, have)
    for line in lines:
        print(line)
    if lines:
        print("run: python tools/protogen.py", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
