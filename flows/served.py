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


def note(prefect: str, mlflow: str, own_mlflow: bool = False) -> None:
    """Notes the addresses of Prefect's API and of MLflow, and that this process serves them.

    Args:
        own_mlflow: whether MLflow's server is one of this project, behind its login.
    """
    about = {
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "prefect": prefect,
        "mlflow": mlflow,
        "own_mlflow": own_mlflow,
    }
    project.write_json(folder() / "addresses.json", about)


def forget() -> None:
    (folder() / "addresses.json").unlink(missing_ok=True)


def addresses() -> dict | None:
    """What `note` noted, or None where nothing is served: a note whose process is gone does not count."""
    try:
        noted = project.read_json(folder() / "addresses.json")
        started = psutil.Process(noted["pid"]).create_time()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return noted if abs(started - noted["process_started"]) < 1 else None
