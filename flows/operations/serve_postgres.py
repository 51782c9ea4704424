"""`trainyard serve-postgres`: all that `trainyard serve` starts, on the servers that a team would use.
Reads   prefect.yaml, as `trainyard serve` does
Writes  .trainyard/postgres/ (the databases), .trainyard/s3/ (artifacts and the DVC remote), .trainyard/servers/
        (passwords, and what other terminals and DVC need), .trainyard/serve/ (addresses and logs)
Run     python -m flows.operations.serve_postgres
"""

import os

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.project import paths
from flows.servers import local, team


@click.command()
@click.option("--servers-only", is_flag=True, help="No deployments and no worker: those are on other machines.")
@click.option("--postgres-port", type=click.IntRange(1, 65535), help=f"[default: {team.POSTGRES_PORT}, or a free one]")
@click.option("--s3-port", type=click.IntRange(1, 65535), help=f"[default: {team.S3_PORT}, or a free one]")
@click.option("--prefect-port", type=click.IntRange(1, 65535), help=f"[default: {local.PREFECT_PORT}, or a free one]")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help=f"[default: {local.MLFLOW_PORT}, or a free one]")
def command(
    servers_only: bool,
    postgres_port: int | None,
    s3_port: int | None,
    prefect_port: int | None,
    mlflow_port: int | None,
) -> int:
    """Do what `trainyard serve` does on real servers: PostgreSQL below Prefect and MLflow, an S3 store for artifacts.

    All of it runs on this machine's loopback until Ctrl-C, and keeps its data in .trainyard/. Needs PostgreSQL
    (apt-get install postgresql) and the extra `servers` (make setup-servers).

    A bucket for a DVC remote is there, too:

    \b
      dvc remote add --default s3 s3://dvc/trainyard
      dvc remote modify s3 endpointurl http://127.0.0.1:9000
      dvc remote modify --local s3 credentialpath "$PWD/.trainyard/servers/credentials"
    """
    root = paths.root()
    if not servers_only:
        read()  # a mistake in params.yaml is reported now, and not by tonight's run
    os.chdir(root)
    wanted = {"postgres": postgres_port, "s3": s3_port, "prefect": prefect_port, "mlflow": mlflow_port}
    return team.serve_postgres(root, wanted, servers_only)


if __name__ == "__main__":
    run(command)
