"""Where this project's servers run: `trainyard serve` notes it in .trainyard/serve/ for other commands."""

import json
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from flows.machine import identity
from flows.project import file_io, paths
from flows.project.file_io import write_private


def folder() -> Path:
    """Holds the note, the lock and the logs."""
    return paths.state_folder() / "serve"


def note(prefect: str, mlflow: str, own: bool = False, own_mlflow: bool = False) -> None:
    """Notes the addresses of Prefect's API and of MLflow, and that this process serves them.

    Args:
        own: whether Prefect's server is this project's own, with the password of `flows.access.login`.
        own_mlflow: the same for MLflow's server.
    """
    about = {
        **identity.this_process(),
        "prefect": prefect,
        "mlflow": mlflow,
        "own": own,
        "own_mlflow": own_mlflow,
    }
    write_private(folder() / "addresses.json", json.dumps(about, indent=2))  # the address may hold a password


def env_file() -> Path:
    """A file for a shell (`. FILE`), with the variables by which commands other than ours find the servers."""
    return folder() / "env"


def write_variables(given: dict[str, str], file: Path | None = None) -> None:
    """Writes environment variables as `export` lines for other terminals."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
    write_private(file or env_file(), "\n".join(lines))


def forget() -> None:
    for file in (folder() / "addresses.json", env_file()):
        file.unlink(missing_ok=True)


def addresses() -> dict | None:
    """What `note` noted. None where no server runs: a note whose process is gone does not count."""

    def check(noted: dict) -> dict:
        urlsplit(noted["prefect"]), urlsplit(noted["mlflow"])
        return noted if identity.is_alive(noted) else {}

    # A damaged note counts as none: what tells whether a server runs is the lock beside it.
    return file_io.read_or_anew(folder() / "addresses.json", check, None, say=False) or None
