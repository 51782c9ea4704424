"""`trainyard study`: runs what is stale of a study, and prints what it found."""

import click

from flows.graph import dvc_command
from flows.machine.console import run
from flows.project import paths
from flows.project.errors import unknown
from flows.studies import specification, variants

PIPELINE = "studies/dvc.yaml"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run all studies.")
@click.option("--on", "dataset", metavar="DATASET", help="Run all studies on this dataset.")
def command(names: tuple[str, ...], everything: bool, dataset: str | None) -> int | None:
    """Run the studies NAME of studies/studies.yaml, and print their tables and verdicts; list them without a NAME.

    Only what is stale runs, by DVC. An interrupted study goes on where it was.
    """
    known = specification.read()
    if dataset is not None and dataset not in known.data:
        raise unknown("dataset", dataset, known.data)
    wanted = [name for name, study in known.every.items() if everything or study.dataset == dataset]
    chosen = list(dict.fromkeys([*names, *wanted]))
    for name in chosen:  # what is wrong is said before DVC deletes a result
        variants.read(name)
    if not chosen:
        listed(known)
        return None
    targets = [f"{PIPELINE}:{'repeat' if name in known.repeats else 'study'}@{name}" for name in chosen]
    try:
        code = dvc_command.foreground(paths.root(), "repro", *targets)
    except KeyboardInterrupt:
        click.echo("interrupted: the same command goes on where this one was", err=True)
        raise
    if code:
        return code
    for name in chosen:
        click.echo()
        click.echo((paths.study_folder(name) / "verdicts.md").read_text(encoding="utf-8"))
    return None


def listed(known: specification.Studies) -> None:
    """Prints a line a study: its name, dataset and question."""
    width = max(map(len, known.every), default=0)
    datasets = max((len(study.dataset) for study in known.every.values()), default=0)
    for name, study in known.every.items():
        done = "" if paths.study_folder(name).exists() else "  (not run yet)"
        click.echo(f"{name:<{width}}  {study.dataset:<{datasets}}  {study.about}{done}")


if __name__ == "__main__":
    run(command)
