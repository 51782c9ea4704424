"""`trainyard worker tcp://HOST:8786`: runs stages for a Dask scheduler, in this working copy. See `flows.cluster`.

Run     python -m flows.worker ADDRESS
"""

import importlib.util
import os
import socket
import sys
from urllib.parse import urlsplit

import click

from flows import masked, prefect_server, project
from flows.console import LOOPBACK, run
from lightning_modules.errors import InputError, UnavailableError

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
            f"{masked.address(address)} is no address of a Dask scheduler, which looks like tcp://HOST:8786"
        )
    if not importlib.util.find_spec("prefect_dask"):
        raise InputError("Dask needs the extra of that name: pip install -e '.[dask]' -c constraints.txt")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise UnavailableError(
            f"no Dask scheduler answers at {masked.address(address)} ({error}): `dask scheduler` starts one"
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


@click.command()
@click.argument("address")
def command(address: str) -> None:
    """Run stages for a Dask scheduler, in this working copy, until Ctrl-C.

    ADDRESS is the scheduler's, tcp://HOST:8786, which `dask scheduler` prints. A worker runs one stage at a time, with
    all cores; on a machine with several GPUs start one for each, with CUDA_VISIBLE_DEVICES. For `--remote` give each
    worker a clone of its own in which nobody works: stages write over params.yaml and dvc.lock there.
    """
    root = project.root()
    check(address)
    prefect_server.configure()
    os.chdir(root)
    # Stages are processes with a memory of their own.
    options = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    os.execv(sys.executable, [sys.executable, "-m", "distributed.cli.dask_worker", address, *options])


if __name__ == "__main__":
    run(command)
