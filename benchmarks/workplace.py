"""Makes the project of a benchmark: a copy of this one, with its own params and data."""

from pathlib import Path

import numpy as np
import yaml

from benchmarks.data import Data, held_out_as_validation, lay_out
from benchmarks.ours import MEMBER
from benchmarks.pipeline import copy
from flows.data import source_images
from flows.params import params_file

# Never reached, so that both sides take the same number of steps.
NO_EARLY_STOPPING = 1_000_000


def make(folder: Path, data: Data, recipe: dict, feed: dict, *, seed: int = 0, rivals: bool) -> params_file.Params:
    """Makes a project in `folder` that has one member.

    Args:
        recipe: of the member.
        feed: epochs, batch_size and so on of the dataset.
        rivals: whether it trains on all training images and validates on the held-out ones, as rivals do. False: it
            has a validation split, as the download stage would make it.
    """
    copy(folder)
    file = folder / "params.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["seed"] = seed
    content["dataset"] = data.dataset
    content["data"][data.dataset] |= feed
    content["training"] |= {"early_stopping": NO_EARLY_STOPPING}
    content["members"] = {MEMBER: recipe}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    settings = params_file.read(file)
    lay_out(*(held_out_as_validation(data) if rivals else (data, set_aside(data, settings))), folder)
    return settings


def set_aside(data: Data, settings: params_file.Params) -> np.ndarray:
    """The indices of the validation images that the download stage would choose."""
    labels = data.training[1]
    return source_images.stratified_sample(
        labels, settings.feed.validation, settings.seed, data.class_names, "the validation split"
    )
