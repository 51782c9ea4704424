"""Links into MLflow's pages. The command prints them as JSON, for a process that has not loaded MLflow: that takes
seconds.

Run     python -m flows.tracking.page_links
"""

import json
from typing import TYPE_CHECKING

import click

from flows.access import running_servers
from flows.machine.console import run
from flows.project.errors import InputError
from flows.tracking import descriptions, experiments, mlflow_runs, mlflow_store
from flows.tracking.mlflow_server import EXPERIMENTS, TRAINING
from flows.untrusted import masking

if TYPE_CHECKING:
    from mlflow import MlflowClient


def pages_address() -> str:
    """The URL of MLflow's pages: the store where it is a server, else the server that `trainyard serve` started, else
    the default address of `trainyard ui`."""
    uri = mlflow_store.store()
    if uri.startswith(("http://", "https://")):
        return masking.address(uri).rstrip("/")
    there = running_servers.addresses()
    return there["mlflow"] if there else "http://127.0.0.1:5000"


def pages() -> dict:
    """Links into MLflow's pages for the dataset in params.yaml.

    Returns:
        `experiment`; `runs`, the newest run by member, and of "ensemble"; `model`, its newest version if registered.

    Raises:
        ConnectionError: the store's server does not answer.
    """
    from flows.params.params_file import read

    params = read()
    address, client = pages_address(), mlflow_store.connect()
    own = experiments.experiment_with_columns(client, params.dataset)
    place = f"{address}/#/experiments/{own}/runs"
    runs = {}
    for name in (*params.members, "ensemble"):
        kind = "ensemble" if name == "ensemble" else "member"
        which = f"tags.`trainyard.kind` = '{kind}'" + (
            f" and tags.`{mlflow_runs.MEMBER}` = '{name}'" if kind == "member" else ""
        )
        for found in client.search_runs([own], which, max_results=1):
            runs[name] = f"{place}/{found.info.run_id}?{TRAINING}"
    links = {"experiment": f"{address}/#{runs_page(own)}", "runs": runs}
    versions = client.search_model_versions(f"name = '{params.dataset}'", max_results=1)
    if versions:
        links["model"] = f"{address}/#/models/{params.dataset}/versions/{versions[0].version}?{TRAINING}"
    return links


def runs_page(experiment: str) -> str:
    """The fragment (after #) of the URL of an experiment's list of runs, with this project's columns."""
    return f"/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={descriptions.VIEW}"


def start_page(client: "MlflowClient") -> str:
    """The fragment of the page that opens first: the runs on the dataset in params.yaml, or, where that is invalid, the
    list of experiments."""
    from flows.params.params_file import read

    try:
        return runs_page(experiments.experiment_with_columns(client, read().dataset))
    except InputError:
        return EXPERIMENTS


@click.command()
def command() -> None:
    """Print the links into MLflow's pages for the dataset in params.yaml, as JSON."""
    click.echo(json.dumps(pages()))


if __name__ == "__main__":
    run(command, libraries=True)
