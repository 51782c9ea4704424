"""`trainyard study`: runs what is stale of a study, and prints what it found."""

import hashlib
from collections.abc import Mapping
from typing import Any

import click

from flows.graph import code_digest, dvc_command, dvc_graph
from flows.machine.console import run
from flows.project import paths
from flows.project.errors import InputError, unknown
from flows.studies import specification, variants
from flows.untrusted.escaping import printable

PIPELINE = "studies/dvc.yaml"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run all studies.")
@click.option("--on", "dataset", metavar="DATASET", help="Run all studies on this dataset.")
def command(names: tuple[str, ...], everything: bool, dataset: str | None) -> int | None:
    """Run the studies NAME of studies/studies.yaml, and print their tables and verdicts; list them without a NAME.

    Only what is stale runs, by DVC. An interrupted study goes on where it was.
    """
    given = specification.content()
    blocks = {str(name): block for name, block in specification.blocks(given).items()}
    chosen = list(blocks) if everything else [*names, *(on(dataset, blocks) if dataset is not None else [])]
    for name in chosen:  # what is wrong is said before DVC starts
        variants.read(name)
    if not blocks:
        specification.read()  # says what is wrong, or nothing is: there is no study
    if not chosen:
        width = max(map(len, blocks), default=0)
        for name in blocks:
            click.echo(f"{printable(name):<{width}}  {printable(about(name))}")
        return None
    for name, block in blocks.items():  # without these DVC refuses all other studies too, in words of its own
        needed = {"dataset", "of"} if name in given["repeats"] else {"dataset"}
        if not isinstance(block, dict) or not needed <= block.keys():
            specification.read(only=name)
    click.echo(f"{', '.join(chosen)}: asking DVC what is stale")
    targets = [f"{PIPELINE}:{'repeat' if name in given['repeats'] else 'study'}@{name}" for name in chosen]
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


def on(dataset: str, blocks: Mapping[str, Any]) -> list[str]:
    """The names of the studies on a dataset. Raises InputError where there is none."""
    datasets = {name: str(block.get("dataset")) for name, block in blocks.items() if isinstance(block, dict)}
    if dataset not in datasets.values():
        raise unknown("dataset", dataset, set(datasets.values()))
    return [name for name, found in datasets.items() if found == dataset]


def about(name: str) -> str:
    """A line about a study: its dataset and question, and whether it has to run, or why it cannot."""
    try:
        study, _ = variants.read(name)
    except InputError as error:
        return f"(cannot run) {error}"
    state = stale(name)
    return f"{study.dataset}: {study.about}" + (f"  ({state})" if state else "")


def stale(name: str) -> str | None:
    """Why a study has to run, by what DVC has noted of its last run; None where it need not."""
    stages = dvc_graph.described((paths.root() / PIPELINE).with_name("dvc.lock")).values()
    result = paths.shown(paths.study_folder(name)).as_posix()
    noted = next((one for one in stages if result in {out["path"] for out in one.get("outs", ())}), None)
    if noted is None or not paths.study_folder(name).exists():
        return "not run yet"
    now = specification.content()
    for key, block in noted.get("params", {}).get(specification.FILE, {}).items():
        group, _, own = key.partition(".")
        if now.get(group, {}).get(own) != block:
            return f"stale: {key} has changed"
    code = f"{code_digest.digest('studies/study')}\n".encode()
    if hashlib.md5(code, usedforsecurity=False).hexdigest() not in {dep.get("md5") for dep in noted.get("deps", ())}:
        return "stale: the code has changed"
    return None


if __name__ == "__main__":
    run(command)
