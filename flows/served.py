"""Where `trainyard serve` has brought up this project's servers: a note in .trainyard/serve/, for other commands."""

import os
from pathlib import Path

import psutil

from flows import masked, project


def folder() -> Path:
    """The note, the lock and the logs."""
    return project.state_folder() / "serve"


without_password = masked.address


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
    try:
        noted = project.read_json(folder() / "addresses.json")
        started = psutil.Process(noted["pid"]).create_time()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return noted if abs(started - noted["process_started"]) < 1 else None
