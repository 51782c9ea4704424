"""MLflow's store: its tracking URI, and a client for it."""

import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.access import login, running_servers
from flows.machine import ports, processes
from flows.project import paths, private_files
from flows.project.errors import InputError, UnavailableError, our_mistake
from flows.tracking import artifact_addresses
from flows.untrusted import masking
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds that it may take to reach a server, and until it answers: a machine on which members train keeps it waiting.
PATIENCE = (5, 60)


def store() -> str:
    """The tracking URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.home() / 'mlflow.db'}"


def in_sqlite() -> bool:
    return store().startswith("sqlite:")


def store_file() -> Path | None:
    """The file of a SQLite store, beside which its artifacts are; None for any other store."""
    uri = store()
    # The part after ? is for the database driver.
    return Path.cwd() / uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:///") else None


def artifacts_address() -> str | None:
    """The URI of the folder for artifacts of new experiments; None where the store's server chooses it."""
    file = store_file()
    return (file.parent / artifact_addresses.ARTIFACTS).as_uri() if file else None


def shown_store() -> str:
    """The tracking URI for a person, with secrets masked."""
    return masking.address(store())


def store_exists() -> bool:
    """Whether there is a store. Asking a SQLite store that does not exist would create it."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (paths.home() / "mlflow.db").exists()


def writable() -> bool:
    """Whether the store can be written to: it is no file, or the file and its folder are writable."""
    file = store_file()
    return not file or not file.exists() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def connect() -> "MlflowClient":
    """A client for the store, which is created where it does not exist.

    Raises:
        ConnectionError: a server cannot be reached within seconds, or does not answer within a minute.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow retries for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE[1]))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    uri = store()
    if uri.startswith(("http://", "https://")):
        import requests

        # Not where another server has the registry: MLflow's client would send it the same password.
        if is_served_here() and (os.environ.get("MLFLOW_REGISTRY_URI") or uri).rstrip("/") == uri.rstrip("/"):
            for name, value in login.mlflow_client_variables().items():
                os.environ.setdefault(name, value)
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE, verify=certificates())
        except requests.RequestException as error:
            raise ConnectionError(f"{shown_store()} does not answer: {type(error).__name__}") from None
        if answer.status_code >= 500:
            said = printable(f"{answer.status_code} {answer.reason}"[:100])
            raise ConnectionError(f"{shown_store()} answers {said}")
    elif not in_sqlite():
        require_answer(uri)
    import logging

    import mlflow

    # MLflow's messages about migrations and models would drown a stage's own lines.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    file = store_file()
    if not file:
        return mlflow.MlflowClient()
    from filelock import FileLock

    if not writable():
        return mlflow.MlflowClient()  # SQLite opens such a file for reading
    # Migrations fail where several processes open a new SQLite store at once.
    with FileLock(f"{file}.lock"):
        if file == paths.home() / "mlflow.db":
            keep_private(file)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        if file.is_file():  # MLflow keeps a deleted store open
            artifact_addresses.update_addresses(file)
    return client


@functools.cache  # once a process: MLflow keeps using the store that it has open, even if the file was deleted since
def keep_private(file: Path) -> None:
    """Closes the project's own store, which is created where missing, to other users."""
    private_files.create(file)
    # The locks too: whoever can read one could hold it.
    for more in ("", "-wal", "-shm", "-journal", ".lock", ".runs.lock"):
        private_files.tighten(file.with_name(f"{file.name}{more}"))
    private_files.make_folder(file.parent / artifact_addresses.ARTIFACTS)


def require_answer(uri: str) -> None:
    """Raises ConnectionError where a database server does not answer: MLflow would retry for minutes."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise ConnectionError(f"{shown_store()} is no address of a server") from None
    port = port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        try:
            socket.create_connection((parts.hostname, port), PATIENCE[0]).close()
        except OSError as error:
            raise ConnectionError(f"{parts.hostname}:{port} does not answer: {error.strerror or error}") from None


def certificates() -> bool | str:
    """How to check a server's certificate, from MLflow's own variables: requests' `verify`."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def is_served_here() -> bool:
    """Whether the store is a server that this project has started for itself."""
    there = running_servers.addresses()
    if not there or not there.get("own_mlflow", False):
        return False
    return store().rstrip("/") == there["mlflow"].rstrip("/") and ports.is_ours(store())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Postpones interrupts inside the `with` for a SQLite store.

    An interrupted query stays open in this process, with a lock that lets nobody write: the run could not even be
    ended as killed. A server has no such lock, and may take minutes to answer.
    """
    with processes.signals_postponed() if in_sqlite() else nullcontext():
        yield


def portable_uri() -> str:
    """The tracking URI for a description. It stays right when the project is moved."""
    file = store_file()
    return f"sqlite:///{file.name}" if file == paths.home() / "mlflow.db" else shown_store()


@contextmanager
def or_unavailable() -> Iterator[None]:
    """Turns any error of the store into an UnavailableError of one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each kind of store, and each plugin, raises its own errors
        if our_mistake(error):
            raise
        raise UnavailableError(f"MLflow at {shown_store()} cannot be used: {masking.sentence(error)}") from None
