"""Stage data@<dataset> of studies/dvc.yaml: the training split of a dataset, for studies.

Reads   sources/<dataset>, and `data.<dataset>.test` in studies/studies.yaml
Writes  studies/data/<dataset>/: train_images.npy (uint8, N×H×W×C), train_labels.npy (int64, N) and dataset.json
Run     python -m flows.studies.data DATASET

The test split is set aside and not written: no study can read it, however often it is repeated.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from flows.data import plain_arrays, source_images, sources
from flows.machine.console import run
from flows.project import paths
from flows.project.errors import unknown
from flows.studies import specification


@dataclass(frozen=True)
class Splits:
    """The images of a study.

    Attributes:
        card: the content of dataset.json: name, shape, class_names, files.
        images: uint8, N×H×W×C, memory-mapped; labels: int64, N.
        train, validation, held_out: int64, sorted row numbers, which have none in common.
        mean, std: per channel, of the `train` images, intensities 0 to 1.
    """

    card: dict
    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray
    mean: list[float]
    std: list[float]


def folder(dataset: str) -> Path:
    return paths.root() / "studies" / "data" / dataset


def write(dataset: str, test: str | float) -> dict:
    """Writes the training split of a dataset, and returns its card."""
    given = sources.read(dataset, test)
    card = {"name": dataset, "shape": list(given.train_images.shape[1:]), "class_names": given.class_names}
    arrays = {"train_images": given.train_images, "train_labels": given.train_labels}
    return plain_arrays.write(folder(dataset), arrays, card, given.provenance)


def load(study: specification.Study) -> Splits:
    """The images of a study, split as it says.

    Raises:
        InputError: they do not exist, a file was changed or damaged, or a class is too small to be split.
    """
    stage = f"studies/dvc.yaml:data@{study.dataset}"
    card, arrays = plain_arrays.read(folder(study.dataset), ("train_images", "train_labels"), stage)
    images, labels = arrays["train_images"], arrays["train_labels"]
    names = card["class_names"]
    held_out = source_images.stratified_sample(labels, study.held_out, study.seed, names, "the held-out split")
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    share = study.validation / (1 - study.held_out)
    chosen = source_images.stratified_sample(np.asarray(labels[rest]), share, study.seed, names, "the validation split")
    validation = rest[chosen]
    train = np.setdiff1d(rest, validation)
    mean, std = plain_arrays.mean_and_std(images, np.concatenate([held_out, validation]))
    return Splits(card, images, labels, train, validation, held_out, mean, std)


@click.command()
@click.argument("dataset")
def command(dataset: str) -> None:
    """Fetch, verify and decode the training split of DATASET for studies."""
    known = specification.read().data
    if dataset not in known:
        raise unknown("dataset", dataset, known)
    card = write(dataset, known[dataset].test)
    click.echo(f"{dataset}: the training split, for studies ({len(card['class_names'])} classes)")


if __name__ == "__main__":
    run(command)
