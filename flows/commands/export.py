"""`trainyard export MEMBER`: a trained member's weights and the dataset, as files that numpy reads.

Reads   models/<dataset>/<member>/, data/<dataset>/
Writes  exports/<dataset>/<member>/ or --output: data.npz, weights.npz, member.json
Run     python -m flows.commands.export MEMBER
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.machine.console import run
from flows.params import fields
from flows.params.params_file import read
from flows.project import file_io, paths
from flows.project.errors import InputError, counted, unknown

if TYPE_CHECKING:
    import numpy as np

Arrays = Iterator[tuple[str, "np.ndarray"]]


def export(dataset: str, member: str, folder: Path, *, data: bool = True) -> Iterator[tuple[Path, str]]:
    """Writes the files, each whole or not at all, and yields its path and what is in it.

    Args:
        data: whether to write data.npz, too.

    Raises:
        InputError: the member is not trained, a file is damaged, or `folder` is a file.
    """
    from flows.models import trained_members

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{paths.shown(folder)} is a file: give a folder to write to")
    card, predictors = trained_members.load(dataset, member)
    if data:
        file = write(folder / "data.npz", lambda: splits(dataset))
        yield file, "images and labels of train, validation and test"
    states = [predictor.network.state_dict() for predictor in predictors]
    file = write(folder / "weights.npz", lambda: weights(states))
    yield file, f"{counted(len(states), 'replica')} of {counted(len(states[0]), 'array')}"
    file_io.write_json(folder / "member.json", card)
    yield folder / "member.json", "recipe, mean and std of the channels, class names, results"


def splits(dataset: str) -> Arrays:
    """Images, uint8 N×H×W×C, and labels, int64 N, one split at a time. Validation is no part of train."""
    from flows.data import dataset as datasets

    loaded = datasets.load(dataset)
    for split in ("train", "validation", "test"):
        images, labels = loaded.split(split)
        yield f"{split}_images", images
        yield f"{split}_labels", labels


def weights(states: list[dict]) -> Arrays:
    """Each replica's arrays, by the names that weights.safetensors has: 0.1.weight is 1.weight of replica 0."""
    for replica, state in enumerate(states):
        for name, tensor in state.items():
            yield f"{replica}.{name}", tensor.numpy()


def write(file: Path, arrays: Callable[[], Arrays]) -> Path:
    """Writes an .npz file, as numpy.savez does, but with one array in memory at a time."""
    from numpy.lib import format as npy

    with file_io.whole(file) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, array in arrays():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, array, allow_pickle=False)
    return file


@click.command()
@click.argument("member")
@click.option("--dataset", help="Trained on which dataset; by default that of params.yaml.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="The folder to write to. [default: exports/<dataset>/<member>]"
)
@click.option("--data/--no-data", default=True, help="Whether to write the dataset, too.", show_default=True)
def command(member: str, dataset: str | None, output: Path | None, data: bool) -> None:
    """Write MEMBER's trained weights, and the dataset, as files for numpy: no pickles, and no code of this project.

    \b
    weights.npz  each replica's arrays, by the names 0.1.weight, 0.1.bias, ..., 1.1.weight, ...
    data.npz     train_images, train_labels, validation_images, ..., test_labels; images are uint8 N×H×W×C
    member.json  the recipe, mean and std by which images are normalised, the names of the classes, the results

    Files of these names are replaced, each as a whole; others in the folder are left as they are.
    """
    params = read()
    dataset = dataset or params.dataset
    params.member(member)  # refuses a name that params.yaml does not have
    if dataset not in fields.DATASETS:
        raise unknown("dataset", dataset, fields.DATASETS)
    needed = [paths.model_folder(dataset, member), *([paths.data_folder(dataset)] if data else [])]
    missing = next((folder for folder in needed if not folder.exists()), None)
    if missing and dataset != params.dataset:  # where they are the same, what reads it says which stage to run
        raise InputError(
            f"{paths.shown(missing)} does not exist, and dataset is {params.dataset}: "
            f"run dvc exp run -S dataset={dataset} train@{member}"
        )
    for file, holds in export(dataset, member, output or paths.export_folder(dataset, member), data=data):
        click.echo(f"{paths.shown(file)}: {holds}")


if __name__ == "__main__":
    run(command)
