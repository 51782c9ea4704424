"""Stage study@<name> of studies/dvc.yaml: trains what a study compares, and judges it.

Reads   studies/data/<dataset>/, and `studies.<name>` in studies/studies.yaml
Writes  studies/results/<name>/: verdicts.md, table.csv (a row a variant), trainings.csv (a row a training), curves.csv
        (a row an epoch of each that is reported), and each figure as .svg and as Vega-Lite (.json)
        and in MLflow a run of the study with one for each variant
Run     python -m flows.studies.study NAME

Each variant is tuned under the same budget, chosen on validation with tuning seeds and reported on fresh ones, on
images held out of the training split; the same seed gives all variants the same initial weights and batch order. What
is done is kept in .trainyard/studies, and an interrupted study goes on.
"""

from typing import TYPE_CHECKING

import click

from flows.machine import processes
from flows.machine.console import run
from flows.project import paths
from flows.studies import variants

if TYPE_CHECKING:
    from flows.findings.findings import Findings


def study(name: str) -> "Findings":
    """Trains all that the study compares, judges it and writes studies/results/<name>/.

    Raises:
        InputError: the study or its data cannot be used.
        WorkerError: a process that trained was killed.
    """
    given, compared = variants.read(name)
    # At once: what follows loads torch for seconds before it has anything to show.
    click.echo(f"{name}: {len(compared)} variants over {given.seeds} seeds; loading libraries and images")

    from flows.graph import code_digest
    from flows.studies import data, engine, mlflow_log, report

    splits = data.load(given)
    inputs = {
        "study": given.model_dump(include={"validation", "held_out", "seed", "early_stopping"}),
        "data": splits.card["files"],
        "code": code_digest.digest("studies/worker"),  # a new figure trains nothing again
    }
    classes = len(splits.card["class_names"])
    rows = engine.run(name, given, compared, splits.card["shape"], classes, inputs)
    found = report.findings(given, rows, classes)
    source = (
        f"{len(rows):,} trainings on {given.dataset}: {len(splits.train):,} training images, "
        f"{len(splits.validation):,} for every choice, {len(splits.held_out):,} held out to report; seed {given.seed}."
    )
    folder = paths.study_folder(name)
    report.write(folder, given, rows, found, source)
    mlflow_log.log(name, given, compared, rows, found, folder, splits.card["files"])
    return found


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Train and judge what the study NAME of studies/studies.yaml compares."""
    with processes.exit_on_sigterm():
        study(name)
    click.echo(f"{name}: judged, see {paths.shown(paths.study_folder(name) / 'verdicts.md')}")


if __name__ == "__main__":
    run(command, libraries=True)
