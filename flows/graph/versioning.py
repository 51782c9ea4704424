"""Versions files and pushes by DVC's command line: `dvc add`, `dvc push`."""

import sys
from collections import deque
from pathlib import Path

from flows.graph import site_cache
from flows.machine.processes import Processes, TimeLimitError
from flows.untrusted import masking
from lightning_modules.errors import InputError, UnavailableError

PUSH_LIMIT = 3600.0  # seconds, after which a push counts as hung


def dvc(folder: Path, *arguments: str, time_limit: float | None = None) -> tuple[int, list[str]]:
    """Runs DVC. Returns its exit code and last lines. Raises InputError where it has no private site cache."""
    site_cache.keep_private(folder)
    lines: deque[str] = deque(maxlen=5)
    command = [sys.executable, "-m", "dvc", *arguments]
    with Processes() as processes:
        try:
            code = processes.run(command, lines.append, cwd=folder, time_limit=time_limit)
        except TimeLimitError as error:
            return 1, [str(error)]
    return code, [masking.text(line) for line in lines if line.strip()]


def add(root: Path, folder: Path) -> None:
    """Versions the content of the folder (`dvc add`). Raises InputError where DVC refuses."""
    place = folder.relative_to(root).as_posix()
    code, lines = dvc(root, "--wait-for-lock", "add", "--quiet", place)
    if code:
        raise InputError(f"DVC cannot version {place}: {' '.join(lines)}")


def remote(folder: Path) -> str | None:
    """The name of the default remote; None without one."""
    code, lines = dvc(folder, "config", "core.remote")
    return lines[-1] if code == 0 and lines else None


def push(folder: Path, *targets: str) -> None:
    """Pushes to the default remote. Raises UnavailableError where that fails."""
    code, lines = dvc(folder, "--wait-for-lock", "push", "--quiet", *targets, time_limit=PUSH_LIMIT)
    if code:
        raise UnavailableError(f"not pushed to the DVC remote {remote(folder)}: {' '.join(lines)}")
