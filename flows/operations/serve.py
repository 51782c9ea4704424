"""`trainyard serve`: starts on this machine all that retraining on a schedule needs, until Ctrl-C or SIGTERM.
Reads   prefect.yaml: the deployments
Writes  .trainyard/prefect/ (Prefect's database), .trainyard/serve/ (addresses and logs), and MLflow's store
Run     python -m flows.operations.serve
"""

import os

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.project import paths
from flows.servers import local


@click.command()
@click.option("--prefect-port", type=click.IntRange(1, 65535), help=f"[default: {local.PREFECT_PORT}, or a free one]")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help=f"[default: {local.MLFLOW_PORT}, or a free one]")
@click.option("--links", "links_only", is_flag=True, help="Print new links to the pages of what is served, and end.")
def command(prefect_port: int | None, mlflow_port: int | None, links_only: bool) -> int:
    """Retrain on a schedule: run Prefect's server, the deployments of prefect.yaml, a worker and MLflow's pages, until
    Ctrl-C.
    PREFECT_API_URL and MLFLOW_TRACKING_URI name servers to use instead. Schedules are kept while nothing is up.
    """
    root = paths.root()
    if links_only:
        local.links()
        return 0
    read()  # a mistake in params.yaml is reported now, and not by tonight's run
    os.chdir(root)
    return local.serve(root, prefect_port, mlflow_port)


if __name__ == "__main__":
    run(command)
