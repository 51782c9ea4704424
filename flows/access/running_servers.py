"""Where `trainyard serve` has brought up this project's servers: a note in .trainyard/serve/, for other commands."""

import json
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from flows.machine import identity
from flows.project import file_io, paths
from flows.project.file_io import write_private


def folder() -> Path:
    """The note, the lock and the logs."""
    return paths.state_folder() / "serve"


def note(prefect: str, mlflow: str, own: bool = False, own_mlflow: bool = False) -> None:
    """Notes the addresses of Prefect's API and of MLflow, and that this process serves them.

    Args:
        own: whether Prefect's server is this project's own, and knows its owner by the secret of `flows.access.login`.
        own_mlflow: whether MLflow's is.
    """
    about = {
        **identity.this_process(),
        "prefect": prefect,
        "mlflow": mlflow,
        "own": own,
        "own_mlflow": own_mlflow,
    }
    write_private(folder() / "addresses.json", json.dumps(about, indent=2))  # the address may hold a password


def variables() -> Path:
    """A file for a shell to read (`. FILE`), after which commands that are not ours find the servers, too."""
    return folder() / "env"


def tell(given: dict[str, str], file: Path | None = None) -> None:
    """Writes variables for other terminals."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
    write_private(file or variables(), "\n".join(lines))


def forget() -> None:
    for file in (folder() / "addresses.json", variables()):
        file.unlink(missing_ok=True)


def addresses() -> dict | None:
    """What `note` noted, or None where nothing is served: a note whose process is gone does not count."""

    def check(noted: dict) -> dict:
        urlsplit(noted["prefect"]), urlsplit(noted["mlflow"])
        return noted if identity.is_alive(noted) else {}

    # A damaged note counts as none. Who serves holds a lock beside it.
    return file_io.read_or_anew(folder() / "addresses.json", check, None, say=False) or None
