"""Versions files and pushes by DVC's command line: `dvc add`, `dvc push`."""

from pathlib import Path

from flows.graph import dvc_command
from flows.machine.processes import Processes
from flows.project.errors import InputError, UnavailableError

PUSH_LIMIT = 3600.0  # seconds, after which a push counts as hung


def add(root: Path, folder: Path) -> None:
    """Versions the content of the folder (`dvc add`). Raises InputError where DVC refuses."""
    place = folder.relative_to(root).as_posix()
    try:
        with Processes() as processes:
            dvc_command.transfer(root, processes, "add", place)
    except UnavailableError as error:
        raise InputError(f"DVC cannot version {place}: {error}") from None


def remote(folder: Path) -> str | None:
    """The name of the default remote; None without one."""
    try:
        return dvc_command.ask(folder, "config", "core.remote").strip() or None
    except InputError:
        return None


def push(folder: Path, *targets: str) -> None:
    """Pushes to the default remote. Raises UnavailableError where that fails."""
    try:
        with Processes() as processes:
            dvc_command.transfer(folder, processes, "push", *targets, time_limit=PUSH_LIMIT)
    except UnavailableError as error:
        raise UnavailableError(f"not pushed to the DVC remote {remote(folder)}: {error}") from None
