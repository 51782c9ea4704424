"""What retraining asks of DVC's command line beside the stages: to version the images taken in, and to push."""

from pathlib import Path

from flows.graph import dvc_command
from flows.machine.processes import Processes
from flows.project.errors import InputError, UnavailableError

PUSH_LIMIT = 3600.0  # seconds after which a push has hung


def add(root: Path, folder: Path) -> None:
    """`dvc add`: what the folder holds now is its version. Raises InputError where DVC refuses."""
    place = folder.relative_to(root).as_posix()
    try:
        with Processes() as processes:
            dvc_command.transfer(root, processes, "add", "--quiet", place)
    except UnavailableError as error:
        raise InputError(f"DVC cannot version {place}: {error}") from None


def remote(folder: Path) -> str | None:
    """The name of the default remote, if there is one."""
    try:
        return dvc_command.ask(folder, "config", "core.remote").strip() or None
    except InputError:
        return None


def push(folder: Path, *targets: str) -> None:
    """Pushes to the default remote. Raises UnavailableError where that fails."""
    try:
        with Processes() as processes:
            dvc_command.transfer(folder, processes, "push", "--quiet", *targets, time_limit=PUSH_LIMIT)
    except UnavailableError as error:
        raise UnavailableError(f"not pushed to the DVC remote {remote(folder)}: {error}") from None
