"""How DVC's command line is started, by this very Python: the one place that knows."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flows.graph import site_cache
from flows.machine.orphans import WITH_PARENT
from flows.machine.processes import Processes, TimeLimitError
from flows.project.errors import InputError, UnavailableError
from flows.untrusted import masking

# Else a DVC that cannot have its lock back within 3 s of a training's end throws the result away.
PATIENT = "--wait-for-lock"


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of DVC and the stages that it runs: this process's with these variables, and this very Python first."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **(variables or {}), "PATH": path, "PYTHONUNBUFFERED": "1"}


def ask(root: Path, *arguments: str) -> str:
    """What DVC answers to a question. Raises InputError with its own words where it cannot."""
    site_cache.keep_private(root)
    command = [sys.executable, "-m", "dvc", PATIENT, *arguments]
    asked = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace")
    if asked.returncode:
        raise InputError(said(asked.stderr))
    return asked.stdout


def foreground(root: Path, *arguments: str) -> int:
    """Runs a command of DVC's on this terminal, with its colours and bars, and returns its exit code.

    It ends with this process, were that killed. Ctrl-C reaches both.
    """
    site_cache.keep_private(root)
    command = [sys.executable, "-c", WITH_PARENT, "dvc", PATIENT, *arguments]
    with subprocess.Popen(command, cwd=root, env=environment()) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def run(
    root: Path,
    processes: Processes,
    arguments: Iterable[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str],
    time_limit: float | None = None,
) -> int:
    """Runs a command of DVC's that may take long; returns and raises as `Processes.run` does.

    It ends with this process, were that killed: a later run would find it at work on the same files.

    Raises:
        InputError: DVC has no site cache of its own to use.
    """
    site_cache.keep_private(root)
    command = [sys.executable, "-c", WITH_PARENT, "dvc", PATIENT, *arguments]
    return processes.run(command, on_line, cwd=root, env=env, time_limit=time_limit)


def transfer(
    root: Path,
    processes: Processes,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    time_limit: float | None = None,
) -> None:
    """Runs `dvc pull`, say, to its end. Raises UnavailableError with DVC's own words where it fails or hangs, and
    what `run` raises."""
    lines: deque[str] = deque(maxlen=20)
    try:
        code = run(root, processes, arguments, lines.append, env=environment(variables), time_limit=time_limit)
    except TimeLimitError as error:
        raise UnavailableError(f"dvc {arguments[0]}: {error}") from None
    if code:
        raise UnavailableError(f"dvc {arguments[0]} failed: {said(' '.join(lines))}")


def said(output: str) -> str:
    """DVC's output on one line: from its first error on, where there is one, and without its address for help."""
    text = output.partition("Having any troubles?")[0]
    text = text[max(0, text.find("ERROR: ")) :]
    return masking.text(" ".join(text.split()).removeprefix("ERROR: "))
