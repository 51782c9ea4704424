"""Stage settings: what all trainings on the dataset depend on alike, noted in one small file.

Reads   the files and keys that dvc.yaml names under this stage
Writes  settings/<dataset>.json
Run     python -m flows.settings

Each train@<member> depends on this file, and not itself on a dozen files and a dozen keys of params.yaml: for each
stage that names keys DVC reads and searches the whole of params.yaml anew, and after each training it writes all of
dvc.lock anew. Both grow with the number of members, so that the work on all of them grows with its square.

What a member has of its own stands behind its command in dvc.yaml. The price of both: another order of its keys, and
a change of a setting in place of which it has its own, train it again.
"""

import click

from flows.commands.console import run
from flows.data import dataset
from flows.params.params_file import Params, read
from flows.params.sections import PLACES
from flows.project import file_io, paths
from lightning_modules.errors import InputError, counted


def settings(params: Params) -> dict:
    """The value of each key and the SHA-256 of each file that dvc.yaml names, as settings/<dataset>.json has them.

    Raises:
        InputError: a file is not there.
    """
    stage = file_io.read_yaml(paths.root() / "dvc.yaml")["stages"]["settings"]
    content = params.model_dump()
    found: dict[str, dict] = {"params": {}, "files": {}}
    for key in named(stage["params"], params):
        value = content
        for part in key.split("."):
            value = value[part]
        found["params"][key] = value
    # The places of a training matter by the number of processes that divide its mini-batches: 1 with strategy auto.
    for key in PLACES:
        found["params"].pop(f"training.{key}", None)
    found["params"]["processes"] = params.training.processes
    for file in named(stage["deps"], params):
        found["files"][file] = dataset.file_sha256(paths.root() / file)
        if found["files"][file] is None:
            raise InputError(f"{file} does not exist: run dvc repro settings")
    file_io.write_json(paths.settings_file(params.dataset), found)
    return found


def named(entries: list[str], params: Params) -> list[str]:
    """Entries of dvc.yaml as DVC reads them."""
    return [entry.replace("${dataset}", params.dataset) for entry in entries]


@click.command()
def command() -> None:
    """Note what all trainings on the dataset of params.yaml depend on alike."""
    found = settings(read())
    settings_and_files = f"{counted(len(found['params']), 'setting')} and {counted(len(found['files']), 'file')}"
    click.echo(f"{settings_and_files} that all trainings depend on")


if __name__ == "__main__":
    run(command)
