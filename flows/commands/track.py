"""`trainyard track`: logs to MLflow what could not be logged when it was made, and ends runs whose process is gone."""

import click

from flows.ensembles import late_registration
from flows.machine.console import run
from flows.params.params_file import read
from flows.project import paths
from flows.project.errors import InputError


@click.command()
def command() -> int | None:
    """Log to MLflow what could not be logged when it was made, and end runs whose process is gone.

    Works from the files of the dataset in params.yaml, and can be repeated: what is logged already stays as it is.
    """
    from flows.tracking import mlflow_runs

    params = read()
    try:
        for name in mlflow_runs.end_stale_runs():
            click.echo(f"ended {name}: its process is gone")
    except ConnectionError as error:
        raise InputError(str(error)) from None
    if not paths.replica_scores_file(params.dataset).exists():
        click.echo(f"nothing is measured on {params.dataset} yet")
        return None
    if stale := late_registration.stale_stages():
        click.echo(f"stale: {', '.join(stale)}. `dvc repro` makes it anew, and logs it")
        return None
    return None if late_registration.track(params) else 1


if __name__ == "__main__":
    run(command)
