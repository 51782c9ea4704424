"""MLflow's store: which it is, and a client of it."""

import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from flows.access import login, running_servers
from flows.machine import ports, processes
from flows.project import paths, private_files
from flows.tracking import artifact_addresses
from flows.untrusted import masking
from flows.untrusted.escaping import printable


def store() -> str:
    """The tracking URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.home() / 'mlflow.db'}"


def in_sqlite() -> bool:
    return store().startswith("sqlite:")


def store_file() -> Path | None:
    """That of a SQLite store, and None for any other: its artifacts lie beside it."""
    uri = store()
    # What follows ? are options of the database's driver.
    return Path.cwd() / uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:///") else None


def artifacts_address() -> str | None:
    """Of the folder for the artifacts of new experiments; None where the store's server says where they go."""
    file = store_file()
    return (file.parent / artifact_addresses.ARTIFACTS).as_uri() if file else None


def shown_store() -> str:
    """The tracking URI for a person to read."""
    return masking.address(store())


def store_exists() -> bool:
    """Whether there is anything to ask without creating it."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (paths.home() / "mlflow.db").exists()


def writable() -> bool:
    """Whether the store is anything else than a file that cannot be written to, with its lock and journal beside it."""
    file = store_file()
    return not file or not file.exists() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def connect():
    """A client of the store, which is created where it does not exist yet.

    Raises:
        ConnectionError: a server does not answer within seconds.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own defaults try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    uri = store()
    if uri.startswith(("http://", "https://")):
        import requests

        # Never to a server of somebody else that has the registry: MLflow's client has one login for both.
        if is_served_here() and (os.environ.get("MLFLOW_REGISTRY_URI") or uri).rstrip("/") == uri.rstrip("/"):
            for name, value in login.for_mlflow().items():
                os.environ.setdefault(name, value)
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5, verify=certificates())
        except requests.RequestException as error:
            raise ConnectionError(f"{shown_store()} does not answer: {type(error).__name__}") from None
        if answer.status_code >= 500:
            said = printable(f"{answer.status_code} {answer.reason}"[:100])
            raise ConnectionError(f"{shown_store()} answers {said}")
    elif not in_sqlite():
        refuse_silence(uri)
    import logging

    import mlflow

    # Its chatter about migrations and models would drown a stage's own lines.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    file = store_file()
    if not file:
        return mlflow.MlflowClient()
    from filelock import FileLock

    if not writable():
        return mlflow.MlflowClient()  # which only reads; SQLite opens such a file for that alone
    # Several processes that open a new SQLite store at once trip over each other's migrations.
    with FileLock(f"{file}.lock"):
        if file == paths.home() / "mlflow.db":
            keep_private(file)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        if file.is_file():  # MLflow keeps one open that was deleted under it
            artifact_addresses.follow(file)
    return client


@functools.cache  # once a process: of a store that was deleted since, MLflow would go on with what it has open
def keep_private(file: Path) -> None:
    """Lets other users neither read nor change the project's own store, which is made where there is none."""
    private_files.create(file)
    # With the locks, which who may read may hold.
    for more in ("", "-wal", "-shm", "-journal", ".lock", ".runs.lock"):
        private_files.tighten(file.with_name(f"{file.name}{more}"))
    private_files.make_folder(file.parent / artifact_addresses.ARTIFACTS)


def refuse_silence(uri: str) -> None:
    """Raises ConnectionError where the database server of the address does not answer: MLflow tries for minutes."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise ConnectionError(f"{shown_store()} is no address of a server") from None
    port = port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        try:
            socket.create_connection((parts.hostname, port), 5).close()
        except OSError as error:
            raise ConnectionError(f"{parts.hostname}:{port} does not answer: {error.strerror or error}") from None


def certificates() -> bool | str:
    """What a server's certificate is checked against, as MLflow's own variables say."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def is_served_here() -> bool:
    """Whether the store is the server that this project has brought up for itself."""
    there = running_servers.addresses()
    same = bool(there) and there.get("own_mlflow", False) and store().rstrip("/") == there["mlflow"].rstrip("/")
    return same and ports.is_ours(store())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets an interrupt wait while SQLite is asked.

    A query that Python interrupts stays open in this process, and with it a lock that lets nobody write: the run
    could not even be ended as killed. A server may take minutes to answer, and has no such lock.
    """
    with processes.postponed() if in_sqlite() else nullcontext():
        yield


def described_store() -> str:
    """The store's address in a description, which has to stay true when the project moves."""
    file = store_file()
    return f"sqlite:///{file.name}" if file == paths.home() / "mlflow.db" else shown_store()
