"""Stage study@<name> of studies/dvc.yaml: trains what a study compares, and judges it.

Reads   studies/data/<dataset>/, and `studies.<name>` in studies/studies.yaml
Writes  studies/results/<name>/: trainings.csv (a row a training), curves.csv (a row an epoch of each)
Run     python -m flows.study NAME

Each variant is tuned under the same budget, chosen on validation with tuning seeds and reported on fresh ones, on
images held out of the training split; the same seed gives all variants the same initial weights and batch order. What
is done is kept in .trainyard/studies, and an interrupted study goes on.
"""

from typing import Any

import click

from flows.machine import processes
from flows.machine.console import run
from flows.project.errors import InputError
from flows.studies import specification
from flows.studies.variants import variants


def study(name: str) -> list[dict[str, Any]]:
    """Trains all that the study compares, and returns a row per training, see `flows.studies.worker.row`.

    Raises:
        InputError: the study or its data cannot be used.
        WorkerError: a process that trained was killed.
    """
    given = specification.study(name)
    try:
        compared = variants(given)
    except InputError as error:
        raise InputError(f"studies.yaml: studies.{name}: {error}") from None

    from flows.graph import code_digest
    from flows.studies import data, engine

    splits = data.load(given)
    inputs = {
        "study": given.model_dump(include={"validation", "held_out", "target", "seed", "early_stopping"}),
        "data": splits.card["files"],
        "code": code_digest.digest("study"),
    }
    return engine.run(name, given, compared, splits.card["shape"], len(splits.card["class_names"]), inputs)


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Train and judge what the study NAME of studies/studies.yaml compares."""
    with processes.exit_on_sigterm():
        rows = study(name)
    print(f"{name}: {len(rows)} trainings")


if __name__ == "__main__":
    run(command, libraries=True)
