"""`trainyard ui`: MLflow's pages on this project's store."""

import os
import socket
import sys

import click
import psutil
from click.core import ParameterSource

from flows.access import door, login, running_servers
from flows.machine import ports
from flows.machine.console import run
from flows.machine.environment_variables import LOOPBACK
from flows.machine.orphans import WITH_PARENT
from flows.project import paths
from flows.project.errors import InputError


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 opens it to the network, unencrypted.")
@click.option("--with-parent", is_flag=True, hidden=True)
@click.pass_context
def command(context: click.Context, port: int, host: str, with_parent: bool) -> None:
    """Open MLflow's UI on this project's store, until Ctrl-C.

    The link that it prints opens it in a browser, once. Where `trainyard serve` shows these pages already, it prints a
    link to them instead.
    """
    from flows.tracking import experiments, mlflow_store, page_links

    uri, there = mlflow_store.store(), running_servers.addresses()
    asked = any(context.get_parameter_source(name) != ParameterSource.DEFAULT for name in ("port", "host"))
    if there and there.get("own_mlflow") and (not asked or uri.rstrip("/") == there["mlflow"].rstrip("/")):
        print(f"MLflow's UI, by `trainyard serve`: {login.link(there['mlflow'])} (good once, within a day)")
        return
    if uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI is {mlflow_store.shown_store()}, which has a UI of its own: open it in a browser"
        )
    if reason := ports.why_not_free(host, port):
        raise InputError(f"port {port} on {host} cannot be used ({reason}): choose another with --port")
    client = mlflow_store.connect()
    experiments.remove_empty_default(client)
    link = login.link(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")
    if not with_parent:  # a parent writes this output to a log, where the link does not belong
        print(f"MLflow's UI: {link} (the link is good once, within a day; Ctrl-C ends it)", flush=True)
    # In the environment, which `ps` shows to nobody else, because a database's address has its password.
    os.environ |= login.mlflow_server_variables() | {
        "TRAINYARD_START": page_links.start_page(client),
        "MLFLOW_BACKEND_STORE_URI": uri,
        # With a database that is no SQLite file, artifacts lie in this project.
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": mlflow_store.artifacts_address() or (paths.home() / "mlartifacts").as_uri(),
    }
    for name, value in allowed(host, port).items():
        os.environ.setdefault(name, value)
    # Jobs are for MLflow's chat features: without them it starts in half the time and ends at once.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    # This process becomes the server, so that Ctrl-C and signals reach it.
    os.execv(
        sys.executable,
        [sys.executable, *(["-c", WITH_PARENT] if with_parent else ["-m"]), "flows.tracking.mlflow_server",
         "--host", host, "--port", str(port), "--workers", "1"],
    )  # fmt: skip


def allowed(host: str, port: int) -> dict[str, str]:
    """MLflow's environment variables for the host names and origins from which it accepts requests.

    It refuses others, so that a stranger's page, whose name may lead to this machine, cannot send requests from a
    browser.
    """
    if host in LOOPBACK:
        return {"MLFLOW_SERVER_ALLOWED_HOSTS": door.HOSTS}
    own = [host]
    if host == "0.0.0.0":
        addresses = [each for card in psutil.net_if_addrs().values() for each in card]
        own = [socket.gethostname(), *(each.address for each in addresses if each.family == socket.AF_INET)]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([door.HOSTS, *(f"{name}:*" for name in own)]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in own),
    }


if __name__ == "__main__":
    run(command)
