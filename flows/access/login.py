"""The password of this project's own servers, Prefect's and MLflow's.

It is random, made once, and kept in .trainyard/login, which the owner alone can read. It survives restarts: what ran
when a server died goes on with the next server.
"""

import secrets
from pathlib import Path

from filelock import FileLock

from flows.access.door import ENTRY
from flows.access.one_time_links import Links
from flows.project import paths
from flows.project.errors import InputError
from flows.project.file_io import write_private

USER = "trainyard"
# Variables by which a server is given the password, and the folder of one-time links.
PASSWORD, LINKS = "TRAINYARD_PASSWORD", "TRAINYARD_LINKS"
BYTES = 24


def file() -> Path:
    return paths.state_folder() / "login" / "password"


def password() -> str:
    """The password, made where there is none. It has only letters and digits, and so needs no escaping in a URL.

    Raises:
        InputError: the file cannot be read, or is damaged.
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
    if len(kept) < 2 * BYTES:  # an empty password would let everybody in
        raise InputError(f"{file()} is damaged: remove it, and start the servers again")
    return kept


def links() -> Links:
    return Links(paths.state_folder() / "login" / "links")


def link(address: str) -> str:
    """A new one-time link that opens the pages at the address in the browser of whoever has it."""
    return f"{address}{ENTRY}#{links().new()}"


def mlflow_client_variables() -> dict[str, str]:
    """The environment variables with which MLflow's client logs in.

    The client sends them to any server that it is pointed to, so set them only with the URL of our own.
    """
    return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password()}


def link_variables() -> dict[str, str]:
    """The environment variable that tells a server where the one-time links are."""
    return {LINKS: str(links().folder.absolute())}


def mlflow_server_variables() -> dict[str, str]:
    """The environment variables of `flows.tracking.mlflow_server`."""
    return {PASSWORD: password(), **link_variables()}


def credentials() -> str:
    """user:password, as HTTP's basic authentication has it."""
    return f"{USER}:{password()}"
