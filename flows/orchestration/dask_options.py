"""Options of commands whose stages may run on Dask's workers, checked before anything starts."""

import importlib.util
import os
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import click

from flows.machine.environment_variables import LOOPBACK
from flows.project.errors import InputError, UnavailableError
from flows.untrusted import masking


def on_dask(command: Callable) -> Callable:
    """The options of a command whose stages may run on Dask's workers."""
    for option in (
        click.option("--remote", is_flag=True, help="Of --dask: the workers have working copies of their own, and "
                     "DVC's remote carries data and results."),
        click.option("--dask", metavar="ADDRESS", help="Run the stages on the workers (trainyard worker) of the Dask "
                     "scheduler at tcp://HOST:8786."),
    ):  # fmt: skip
        command = option(command)
    return command


def check_dask(address: str | None, remote: bool) -> None:
    """Raises InputError and UnavailableError before anything is started."""
    if address:
        check(address)
        check_servers(address, remote)
    elif remote:
        raise InputError("--remote is for --dask: without it stages run in this working copy")


PATIENCE = 10  # seconds


def check(address: str) -> None:
    """Of a scheduler.

    Raises:
        InputError: it is no address, or Dask is not installed.
        UnavailableError: nobody listens there.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not (host and port and address.startswith(("tcp://", "tls://"))):
        raise InputError(
            f"{masking.address(address)} is no address of a Dask scheduler, which looks like tcp://HOST:8786"
        )
    if not importlib.util.find_spec("prefect_dask"):
        raise InputError("Dask needs the extra of that name: pip install -e '.[dask]' -c constraints.txt")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise UnavailableError(
            f"no Dask scheduler answers at {masking.address(address)} ({error}): `dask scheduler` starts one"
        ) from None


def check_servers(address: str, remote: bool) -> None:
    """Raises InputError where the scheduler's workers could not reach Prefect or MLflow."""
    prefect, mlflow = os.environ.get("PREFECT_API_URL", ""), os.environ.get("MLFLOW_TRACKING_URI", "")
    far = urlsplit(address).hostname not in LOOPBACK
    if far and urlsplit(prefect).hostname in (None, *LOOPBACK):
        raise InputError("--dask on other machines needs PREFECT_API_URL to name a Prefect server that they reach too")
    # On one machine a SQLite file that is named in full will do.
    if remote and (not mlflow or (far and urlsplit(mlflow).hostname in (None, *LOOPBACK))):
        raise InputError(
            "--remote needs MLFLOW_TRACKING_URI to name a server that the workers reach too: from other working copies "
            "they cannot write into the mlflow.db of this one"
        )
