"""Stages study@<name> and repeat@<name> of studies/dvc.yaml: train what a study compares, and judge it.

Reads   studies/data/<dataset>/, and `studies.<name>` or `repeats.<name>` in studies/studies.yaml; a repeat also the
        table.csv of the studies that it repeats
Writes  studies/results/<name>/: verdicts.md, table.csv (a row a variant), trainings.csv (a row a training), curves.csv
        (a row an epoch of each that is reported), and each figure as Vega-Lite (.json)
        studies/figures/<name>/: the figures (.svg)
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
from flows.project.errors import InputError
from flows.studies import log_process, specification, variants

if TYPE_CHECKING:
    from flows.findings.across import Outcome
    from flows.findings.findings import Findings


def study(name: str) -> "Findings":
    """Trains all that the study compares, judges it and writes studies/results/<name>/.

    Raises:
        InputError: the study or its data cannot be used, or what it repeats has not run.
        WorkerError: a process that trained was killed.
    """
    given, compared = variants.read(name)
    others = repeated(name, [variant.name for variant in compared])  # before hours of training
    # At once: what follows loads torch for seconds before it has anything to show.
    click.echo(f"{name}: {len(compared)} variants over {given.seeds} seeds; loading libraries and images")

    with log_process.log_process() as logging:
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
            f"{len(splits.validation):,} for every choice, {len(splits.held_out):,} held out to report; "
            f"seed {given.seed}."
        )
        mlflow_log.log(logging, name, given, compared, rows, found, splits.card["files"])
        report.write(name, given, rows, found, others, source)
        logging.finish()
    return found


def repeated(name: str, compared: list[str]) -> "dict[str, list[Outcome]]":
    """What the studies that this one repeats found, by dataset.

    Args:
        compared: the names of this study's variants.

    Raises:
        InputError: one of them has not run.
    """
    from flows.studies import report

    known = specification.named(name)
    found = {}
    for other in known.line(name)[:-1]:
        file = paths.study_folder(other) / "table.csv"
        if not file.is_file():
            raise InputError(f"{name} repeats {other}, which has not run: `trainyard study {name}` runs both")
        found[known.every[other].dataset] = report.outcomes(file, compared)
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
