"""`trainyard study`: runs what is stale of a study, and prints what it found."""

import click

from flows.graph import dvc_command
from flows.machine.console import run
from flows.project import paths
from flows.project.errors import InputError, unknown
from flows.studies import specification
from flows.studies.variants import variants

PIPELINE = "studies/dvc.yaml"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run all studies.")
def command(names: tuple[str, ...], everything: bool) -> int | None:
    """Run the studies NAME of studies/studies.yaml, and print their tables and verdicts; list them without a NAME.

    Only what is stale runs, by DVC. An interrupted study goes on where it was.
    """
    known = specification.read().studies
    for name in names:
        if name not in known:
            raise unknown("study", name, known)
    for name in known if everything else names:
        try:
            variants(known[name])
        except InputError as error:
            raise InputError(f"studies.yaml: studies.{name}: {error}") from None
    if not names and not everything:
        width = max(map(len, known), default=0)
        for name, study in known.items():
            done = "" if (paths.root() / "studies" / "results" / name).exists() else "  (not run yet)"
            click.echo(f"{name:<{width}}  {study.about}{done}")
        return None
    targets = [PIPELINE] if everything else [f"{PIPELINE}:study@{name}" for name in names]
    try:
        code = dvc_command.foreground(paths.root(), "repro", *targets)
    except KeyboardInterrupt:
        click.echo("interrupted: the same command goes on where this one was", err=True)
        raise
    if code:
        return code
    for name in known if everything else names:
        click.echo()
        click.echo((paths.root() / "studies" / "results" / name / "verdicts.md").read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    run(command)
