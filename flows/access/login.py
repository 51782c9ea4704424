"""The secret by which this project's own servers know its owner: Prefect's server and MLflow's pages.

It is random, made once, and kept in .trainyard/login, which the owner alone can read. A start keeps it: what was at
work when a server died goes on with the next one.
"""

import secrets
from pathlib import Path

from filelock import FileLock

from flows.access.door import WAY_IN
from flows.access.one_time_links import Links
from flows.project import paths
from flows.project.errors import InputError
from flows.project.file_io import write_private

USER = "trainyard"
BYTES = 24


def file() -> Path:
    return paths.state_folder() / "login" / "password"


def password() -> str:
    """Letters and digits alone, so that it can stand in an address and in a variable as it is.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    if not file().exists():
        file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(f"{file()}.lock"):
            if not file().exists():
                write_private(file(), secrets.token_hex(BYTES))
    try:
        kept = file().read_text(encoding="utf-8").strip()
    except PermissionError:
        raise InputError(f"{file()} is another user's, who alone can start this project's servers") from None
    if len(kept) < 2 * BYTES:  # an empty one would let everybody in
        raise InputError(f"{file()} is damaged: remove it, and start the servers again")
    return kept


def links() -> Links:
    return Links(paths.state_folder() / "login" / "links")


def link(address: str) -> str:
    """That opens the pages at the address, once, in the browser of whoever has it."""
    return f"{address}{WAY_IN}#{links().new()}"


def for_mlflow() -> dict[str, str]:
    """The variables by which MLflow's client logs in. It sends them to whatever server it is told of, so they may only
    stand beside the address of our own."""
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password()}


def for_links() -> dict[str, str]:
    """Where a server finds the links that are good once."""
    return {"TRAINYARD_LINKS": str(links().folder.absolute())}


def for_mlflow_server() -> dict[str, str]:
    """What `flows.tracking.mlflow_server` takes."""
    return {"TRAINYARD_PASSWORD": password(), **for_links()}


def basic() -> str:
    """User and password, as HTTP's basic authentication joins them."""
    return f"{USER}:{password()}"
