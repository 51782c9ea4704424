"""`trainyard ui`: MLflow's pages on this project's store."""

import os
import sys

import click

from flows import ports, project
from flows.console import run
from flows.orphan import WITH_PARENT
from lightning_modules.errors import InputError


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 opens it to the network.")
@click.option("--with-parent", is_flag=True, hidden=True)
def command(port: int, host: str, with_parent: bool) -> None:
    """Open MLflow's UI on this project's store, until Ctrl-C."""
    from flows import tracking

    uri = tracking.store()
    if uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI is {tracking.shown_store()}, which has a UI of its own: open it in a browser"
        )
    if reason := ports.why_not(host, port):
        raise InputError(f"port {port} on {host} cannot be used ({reason}): choose another with --port")
    tracking.tidy(tracking.connect())
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/#/experiments?{tracking.TRAINING}"
    print(f"MLflow's UI: {address} (Ctrl-C ends it)", flush=True)
    # Of a database that is no SQLite file the artifacts are this project's.
    artifacts = tracking.artifacts_address() or (project.home() / "mlartifacts").as_uri()
    # Jobs are for MLflow's chat features: without them it starts in half the time and ends at once.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    # This process becomes the server, so that Ctrl-C and signals reach it.
    os.execv(
        sys.executable,
        [sys.executable, *(["-c", WITH_PARENT] if with_parent else ["-m"]), "mlflow", "server",
         "--backend-store-uri", uri, "--default-artifact-root", artifacts,
         "--host", host, "--port", str(port), "--workers", "1"],
    )  # fmt: skip


if __name__ == "__main__":
    run(command)
