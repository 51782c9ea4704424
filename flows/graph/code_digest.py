"""Which code counts for a stage: the one answer for DVC, for resuming, and for other machines.

It is the code that a stage's module reaches by its imports, also those inside functions, without comments, docstrings
and blank lines. So a mended comment makes nothing stale.

Run     python -m flows.graph.code_digest MODULE FILE
"""

import ast
import functools
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from flows.machine.console import run
from flows.project import file_io

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "lightning_modules")
# The rooms of flows/ whose code affects results. The others decide how a stage is run, reported and stored. For
# example, DVC compares the values of params.yaml, so the code that reads them does not count.
ROOMS = (
    "data", "ensembles", "figures", "findings", "models", "reporting", "statistics", "studies", "training",
)  # fmt: skip
# Files in those rooms, or in lightning_modules/, that affect no result: errors, loading a library, progress bars.
NO_RESULT = ("flows/training/progress.py", "lightning_modules/errors.py", "lightning_modules/lightning.py")


@functools.cache
def digest(stage: str) -> str:
    """SHA-256 of the code that affects the results of a stage, or of a module of flows/ such as studies/worker."""
    return hashlib.sha256(json.dumps(by_file(stage), sort_keys=True).encode()).hexdigest()


def by_file(stage: str, root: Path = ROOT) -> dict[str, str]:
    """The SHA-256 of each file in `files`, without comments, by its path relative to the root of a working copy."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(bare(file.read_text(encoding="utf-8")).encode()).hexdigest()
        for file in files(stage, root)
    }


def files(stage: str, root: Path = ROOT) -> set[Path]:
    """The stage's module, and the files it imports, directly or not, that affect results."""
    found: set[Path] = set()
    module = root / "flows" / f"{stage}.py"
    new = {module} if module.is_file() else set()  # a stage that a user added has no module here
    while new:
        found |= new
        new = {file for one in new for file in imported(one, root) if affects_results(file.relative_to(root))} - found
    return found


def affects_results(name: Path) -> bool:
    """Whether a file's code can change a result."""
    in_flows = name.parts[0] == "flows"
    return name.as_posix() not in NO_RESULT and (not in_flows or (len(name.parts) > 2 and name.parts[1] in ROOMS))


def imported(file: Path, root: Path) -> Iterator[Path]:
    """The files of this project that a file imports directly."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names: Iterable[str] = (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from a import b` imports the module a.b, or the name b of the module a.
            names = (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        else:
            continue
        for name in names:
            if name.partition(".")[0] in PACKAGES:
                parts = name.split(".")
                for end in range(1, len(parts) + 1):  # the packages on the way are imported, too
                    place = root.joinpath(*parts[:end])
                    yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


def bare(source: str) -> str:
    """Python code without comments, docstrings (any string that is a statement) and blank lines."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]  # ast counts columns in bytes
    gone = [
        (node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            start = len(token.line[:column].encode())
            gone.append((row, start, row, start + len(token.string.encode())))
    # Last first, so that earlier positions stay valid.
    for first, start, last, end in sorted(gone, reverse=True):
        rest = lines[last - 1][end:]
        lines[first - 1] = lines[first - 1][:start] + rest
        for between in range(first, last):
            lines[between] = b""
    return "\n".join(line.rstrip() for line in b"".join(lines).decode().splitlines() if line.strip())


@click.command()
@click.argument("module")
@click.argument("file", type=click.Path(path_type=Path))
def command(module: str, file: Path) -> None:
    """Write the digest of the code that MODULE of flows/, such as studies/study, reaches to FILE."""
    file_io.write_if_changed(file, f"{digest(module)}\n")


if __name__ == "__main__":
    run(command)
