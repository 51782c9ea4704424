"""`trainyard trust VERSION`: lets this project load a registered model that it did not register itself.

Reads   the version and its files in MLflow
Writes  the digest of its files in .trainyard/registered/
Run     python -m flows.commands.trust
"""

import tempfile
from pathlib import Path

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.project.errors import InputError, counted


@click.command()
@click.argument("version")
@click.option("--dataset", help="Of which dataset's model; by default that of params.yaml.")
@click.option("--withdraw", is_flag=True, help="Trust it no longer.")
def command(version: str, dataset: str | None, withdraw: bool) -> None:
    """Let this project load VERSION (a number, or an alias such as champion) of a registered model that it did not
    register itself: one from another working copy or machine, say.

    A model that is not of this project's kind contains code, which runs when it is loaded: trust only models whose
    maker you know. Trust holds for the files as they are now. If they change, the version is refused again.
    """
    from flows.tracking import trusted_models
    from flows.tracking.loading import fetch, loading
    from flows.tracking.registry import Registry

    dataset = dataset or read().dataset
    registry = Registry(dataset)
    number = version if version.isdecimal() else registry.aliases().get(version, version)
    if withdraw:
        if not version.isdecimal():  # an alias may have moved to another version
            raise InputError(f"{version} is no number of a version: --withdraw takes that which was trusted")
        if not trusted_models.distrust(dataset, number):
            raise InputError(f"{dataset} version {number} was not trusted by name: there is nothing to take back")
        click.echo(f"{dataset} version {number} is trusted no longer")
        return
    about = registry.version(number)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as place, loading(f"{dataset} version {number}"):
        folder, data = fetch(dataset, number, Path(place))
        known = trusted_models.trust(dataset, number, folder)
        files = sum(path.is_file() for path in folder.rglob("*"))
    what = "networks of this project's kind" if data else "code of its own, which runs when it is loaded"
    click.echo(
        f"{dataset} version {number} may be loaded from now on: run {about['run_id']}, {counted(files, 'file')} "
        f"({what}), SHA-256 {known[:16]}…; `trainyard trust {number} --withdraw` takes it back"
    )


if __name__ == "__main__":
    run(command)
