"""Where `trainyard serve` has brought up this project's servers: a note in .trainyard/serve/, for other commands."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows import project


def folder() -> Path:
    """The note, the lock and the logs."""
    return project.state_folder() / "serve"


def without_password(address: str) -> str:
    """A URI for a person to read: with *** for its password, as SQLAlchemy has it."""
    password = urlsplit(address).password
    return address.replace(f":{password}@", ":***@", 1) if password else address


def note(prefect: str, mlflow: str) -> None:
    """Notes the addresses of Prefect's API and of MLflow, and that this process serves them."""
    about = {
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "prefect": prefect,
        "mlflow": mlflow,
    }
    project.write_json(folder() / "addresses.json", about)


def forget() -> None:
    (folder() / "addresses.json").unlink(missing_ok=True)


def addresses() -> dict | None:
    """pid, prefect and mlflow, or None where nothing is served: a note whose process is gone does not count."""

    def check(noted: dict) -> dict:
        urlsplit(noted["prefect"]), urlsplit(noted["mlflow"])
        return noted if abs(psutil.Process(noted["pid"]).create_time() - noted["process_started"]) < 1 else {}

    try:
        # A damaged note counts as none. Who serves holds a lock beside it.
        return project.read_or_anew(folder() / "addresses.json", check, None, say=False) or None
    except psutil.NoSuchProcess:
        return None
