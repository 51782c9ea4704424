"""`trainyard retrain`: takes in new images, runs the stale stages, and lets the gate decide whether the champion
changes.

Reads   data/incoming/ (see `flows.retraining.incoming`), DVC's graph, MLflow's registry
Writes  what the stages write, sources/<dataset>/added.dvc, the registry's aliases, reports/<dataset>-retrain-<time>.md,
        and a note in .trainyard/retrain/ until it has ended, from which the run after a kill or a failure goes on
Run     python -m flows.retrain

`flows.retrain_flow.retrain` is the same as a Prefect flow, for deployments.
"""

from typing import Any

import click

from flows.machine import processes
from flows.machine.console import run
from flows.orchestration import dask_options
from flows.retraining import steps
from flows.servers import running_server
from flows.untrusted.escaping import printable


@click.command()
@click.option("--dataset", metavar="NAME", help="Retrain this dataset.  [default: that of params.yaml]")
@click.option("--workers", type=click.IntRange(min=1), help="Stages at the same time.  [default: CPU cores]")
@click.option("--fresh-seed", is_flag=True, help="Train all anew with another seed, leaving params.yaml as it is.")
@click.option("--promote/--no-promote", default=True, help="Make the challenger champion if the gate lets it pass.")
@click.option("--push/--no-push", default=True, help="Push to DVC's default remote, if there is one.")
@click.option("--commit", is_flag=True, help="Commit dvc.lock, metrics and the version of added images to git.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each stage.")
@click.option("--dry", is_flag=True, help="Only say what would be done.")
@dask_options.on_dask
def command(dry: bool, **given: Any) -> int:
    """Take in the images in data/incoming/<class>/, run what is stale, and promote the result if it is truly better.

    For example data/incoming/7/scan.png for a 7 of digits. A file is left for the next run until nobody has written
    to it for ten seconds. Refused files go to data/rejected/, with the reasons in reasons.csv there.

    Another dataset or seed is run in a working copy below .dvc/tmp/exps: params.yaml, dvc.lock and models/ stay as
    they are. After a kill or a failure the next run goes on. Exit code 0: done, or nothing to do; 1: something failed,
    or another retrain is running.
    """
    options = steps.Options(**given)
    if dry:
        steps.tell_ahead(options)
        return 0
    ended = steps.ahead(options)
    if ended:
        click.echo(printable(ended.message), err=ended.kind != steps.SKIPPED)
        return 0 if ended.kind == steps.SKIPPED else 1
    with processes.exit_on_sigterm():
        if server := running_server.server_if_none():
            server.start()
        from flows.retrain_flow import retrain

        if server:
            server.wait()
        with running_server.watched_server():
            state = retrain(**given, return_state=True)
    click.echo(printable(str(state.message or state.name)), err=not state.is_completed())
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    run(command)
