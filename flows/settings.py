"""Stage settings: writes what all trainings on the dataset depend on, and the digests of later stages' code.

Reads   data/<dataset>/dataset.json, the code in flows/ and lightning_modules/, the keys that dvc.yaml names
Writes  settings/<dataset>.json, on which each train@<member> depends;
        settings/evaluate.code and settings/ensemble.code, the digests of these stages' code
Run     python -m flows.settings

Each train@<member> depends on this one file instead of on folders of code and a dozen keys of params.yaml. For every
stage that names keys, DVC reads and searches all of params.yaml; after every training it writes all of dvc.lock. Both
grow with the number of members, so that the time for all members would grow with its square.

Code is represented by a digest of what a stage reaches, without comments: after a mended comment only this stage runs.
See `flows.graph.code_digest`.

A member's own block of params.yaml is part of its command in dvc.yaml. The price of both: a member is also trained
again after a change in the order of its keys, and after a change of a shared value that it overrides.
"""

from typing import Any

import click

from flows.data import plain_arrays
from flows.graph import code_digest
from flows.machine.console import run
from flows.params.params_file import Params, read
from flows.params.sections import PLACES
from flows.project import file_io, paths
from flows.project.errors import InputError, counted

CODE = ("evaluate", "ensemble")  # the stages whose code has a file of its own


def settings(params: Params) -> dict:
    """Writes the value of each key that dvc.yaml names, the SHA-256 of the dataset's card, and the digests of code.

    Returns:
        The content of settings/<dataset>.json: params, data and code.

    Raises:
        InputError: data/<dataset>/ does not exist.
    """
    stage = file_io.read_yaml(paths.root() / "dvc.yaml")["stages"]["settings"]
    content = params.model_dump()
    values: dict[str, Any] = {}
    for key in (entry.replace("${dataset}", params.dataset) for entry in stage["params"]):
        value = content
        for part in key.split("."):
            value = value[part]
        values[key] = value
    # Where a training runs counts only as the number of processes that divide its mini-batches: 1 with strategy auto.
    for key in PLACES:
        values.pop(f"training.{key}", None)
    values["processes"] = params.training.processes
    card = plain_arrays.file_sha256(paths.data_folder(params.dataset) / "dataset.json")
    if card is None:
        raise InputError(f"data/{params.dataset}/dataset.json does not exist: run dvc repro download")
    found = {"params": values, "data": card, "code": code_digest.digest("train")}
    file_io.write_json(paths.settings_file(params.dataset), found)
    for name in CODE:
        file_io.write_if_changed(paths.code_file(name), f"{code_digest.digest(name)}\n")
    return found


@click.command()
def command() -> None:
    """Write down what all trainings on the dataset of params.yaml depend on, and the code of the stages after them."""
    found = settings(read())
    code = " ".join(f"{name} {code_digest.digest(name)[:12]}" for name in ("train", *CODE))
    click.echo(f"{counted(len(found['params']), 'setting')} that all trainings depend on; code: {code}")


if __name__ == "__main__":
    run(command)
