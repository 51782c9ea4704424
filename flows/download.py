"""Stage download: fetches, verifies and decodes the dataset.

Reads   sources/<dataset>, and from params.yaml `dataset`, `seed`, `data.<dataset>.test` and `.validation`
Writes  data/<dataset>/: the dataset as plain arrays, and its card, dataset.json, which says where they come from
Run     python -m flows.download
"""

import hashlib

import click
import numpy as np

from flows.data import added, dataset, plain_arrays, source_images, sources
from flows.machine.console import run
from flows.params import params_file
from flows.project import paths

WORDS = {"train": "training", "validation": "validation"}


def download(params: params_file.Params) -> dict:
    """Fetches, verifies and decodes the chosen dataset, and carves the validation split out of the training split.

    data/<dataset>/ then holds train_images.npy and test_images.npy (uint8, N×H×W×C), train_labels.npy and
    test_labels.npy (int64, N), validation_indices.npy (int64, sorted, into the training split) and dataset.json. The
    same sources, seed and fractions make the same bytes.

    Returns the card, as dataset.json holds it:
        name, class_names, shape ([H, W, C]), counts (images per split; train is without validation), duplicates (see
        `duplicates`), mean and std (per channel, of the training images without the validation images, intensities
        0 to 1; std is 0 for a constant channel), test_sha256 (pins the test images and labels), files (the SHA-256
        of every .npy), provenance, task, dtype (of the images). Where channels are measurements, float32, their names
        are `features`, and mean and std those of the values themselves. For regression `target` has the name, mean and
        std of what is predicted, over the same images.

    Raises:
        InputError: the source is not available or not what it should be, or a class is too small to be split.
    """
    paths.refuse_links(f"data/{params.dataset}", "models", "predictions", "plots", "metrics", "settings", "ensembles")
    given = sources.read(params.dataset, params.feed.test, params.limits)
    # Split before added images are joined: those are for training only, so that validation scores stay comparable.
    validation = source_images.validation_sample(given, params.feed.validation, params.seed)
    images = added.join(params.dataset, given, params.limits)
    mean, std = plain_arrays.mean_and_std(images.train_images, validation)
    arrays = {
        "train_images": images.train_images,
        "train_labels": images.train_labels,
        "test_images": images.test_images,
        "test_labels": images.test_labels,
        "validation_indices": validation,
    }
    card = {
        "name": params.dataset,
        "shape": list(images.train_images.shape[1:]),
        "counts": {
            "train": len(images.train_labels) - len(validation),
            "validation": len(validation),
            "test": len(images.test_labels),
        },
        "duplicates": duplicates(images, validation),
        "class_names": images.class_names,
        "mean": mean,
        "std": std,
        "test_sha256": dataset.digest_of_test_data(images.test_images, images.test_labels),
        "task": images.task,
        "dtype": images.train_images.dtype.name,
    }
    if images.features is not None:
        card["features"] = images.features
    if images.task == "regression":
        centre, spread = plain_arrays.centre_and_spread(np.delete(images.train_labels, validation).tolist())
        card["target"] = {"name": images.target, "mean": centre, "std": spread}
    return plain_arrays.write(paths.data_folder(params.dataset), arrays, card, images.provenance)


def duplicates(images: source_images.Images, validation: np.ndarray) -> dict[str, int]:
    """Counts validation and test images that are also training images, and test images that are also validation images,
    pixel for pixel. Such duplicates make every score look better than it is.

    Args:
        validation: indices of the validation images in the training split.
    """
    digests = [hashlib.sha256(image).digest() for image in images.train_images]
    chosen_on = {digests[number] for number in validation}
    learned_from = set(np.delete(np.array(digests, dtype=object), validation))
    tests = [hashlib.sha256(image).digest() for image in images.test_images]
    return {
        "validation_in_train": sum(digests[number] in learned_from for number in validation),
        "test_in_train": sum(digest in learned_from for digest in tests),
        "test_in_validation": sum(digest in chosen_on for digest in tests),
    }


def summary(card: dict) -> str:
    counts = card["counts"]
    same = "".join(
        f"\nwarning: {count:,} of the {counts[split]:,} {split} images are {WORDS[other]} images too, pixel for pixel"
        for (split, other), count in ((name.split("_in_"), count) for name, count in card["duplicates"].items())
        if count
    )
    return (
        f"{card['name']}: {counts['train']:,} training, {counts['validation']:,} validation, {counts['test']:,} test "
        f"{'rows' if card['dtype'] == 'float32' else 'images'} of {'×'.join(map(str, card['shape']))}, "
        f"{learned(card)}{same}"
    )


def learned(card: dict) -> str:
    """What is to be learned of each image."""
    if card["task"] == "regression":
        return f"{card['target']['name']}: {card['target']['mean']:.4g} ± {card['target']['std']:.3g}"
    return f"{'sequences of ' if card['task'] == 'sequence' else ''}{len(card['class_names'])} classes"


@click.command()
def command() -> None:
    """Fetch, verify and decode the dataset that params.yaml names, into data/<dataset>/."""
    click.echo(summary(download(params_file.read())))


if __name__ == "__main__":
    run(command)
