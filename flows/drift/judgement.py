"""Compares incoming images with held-out ones, and decides whether they differ.

Four views of the images are tested, see `flows.statistics.two_sample`: pixel statistics, the champion's predictions,
the embeddings inside its networks, and how often it predicts each class, from which the class shares are estimated. The
reference are validation and test images, never training images: a network is surer of images that it has seen, so that
all new ones would look like drift.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.drift import ranking
from flows.params.sections import DEFAULT_LIMITS, Drift, Limits
from flows.project import file_io, messages, paths
from flows.project.errors import InputError, counted
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    import numpy as np

    from flows.data.dataset import Dataset
    from flows.models.served_ensemble import ServedEnsemble
    from flows.statistics.two_sample import ClassShares, Result

FEWEST = 20  # images; with fewer, hardly anything but wholly black images would be found
DRIFT = 3  # exit code for drift, beside the 0, 1 and 2 of all commands
SHOWN = 5  # refused files to name on the terminal; drift.json names them all


def drift(place: Path, dataset: str, params: Drift, seed: int, limits: Limits = DEFAULT_LIMITS) -> dict:
    """Compares, and writes drift.json and drift.png.

    Args:
        place: a folder of image files, with or without subfolders, or an .npz file; see `image_folder.read`.
        params: section `drift` of params.yaml.
        seed: of the samples that are drawn from both sides.
        limits: on the size of files and images in `place`.

    Returns:
        The content of drift.json, among it:
        drift: whether anything differs.
        drifted: names of the tests that found drift.
        tests: a dict per test: view, name, statistic, p (corrected), auc, verdict.
        class_shares: a dict per class (None for the rare ones together): its share of the held-out images, and its
            estimated share of the incoming ones.
        found, incoming, reference: numbers of images; refused: files that are no usable images, with reasons.

    Raises:
        InputError: there is no champion, there are too few usable images, or the champion's predictions are NaN.
        UnavailableError: MLflow does not answer, or the champion cannot be loaded.
    """
    import numpy as np

    from flows.data import dataset as data_of
    from flows.data import image_folder
    from flows.drift import figure

    data_of.refuse_other_tasks(dataset, "drift is found by what is predicted by")
    data = data_of.load(dataset)
    shape = tuple(data.card["shape"])
    arrivals = image_folder.read(place, shape, params.images, seed, limits)
    if len(arrivals.images) < FEWEST:
        refused = f" ({len(arrivals.refused)} more cannot be used)" if arrivals.refused else ""
        raise InputError(
            f"{place} has {counted(len(arrivals.images), 'image')} to be compared{refused}; it takes {FEWEST} or more"
        )
    known, labels = held_out(data, params.images, seed)

    from flows.models.served_ensemble import ServedEnsemble
    from flows.tracking import loading

    served, champion = loading.load_champion(dataset)
    if not isinstance(served, ServedEnsemble):
        raise InputError(
            f"the champion, {dataset} version {champion['version']}, was not made by this project: drift looks into "
            "the networks of those that were"
        )
    all_labels = np.concatenate([data.labels("validation"), data.labels("test")])
    with loading.loading(f"the champion, {dataset} version {champion['version']},"):
        agree(data, served, champion)
        views, predicted, classes = measure(served, arrivals.images, known, labels, all_labels, seed)
    tests = judged(views, classes, params)
    drifted = [test["name"] for test in tests if test["verdict"] == "drift"]
    result = {
        "drift": bool(drifted),
        "drifted": drifted,
        "dataset": dataset,
        "images": str(place),
        "champion": {"name": dataset, "version": champion["version"]},
        "alpha": params.alpha,
        "effect": params.effect,
        "class_share": params.class_share,
        "found": arrivals.found,
        "incoming": len(arrivals.images),
        "reference": len(known),
        "tests": tests,
        "predicted": {side: shares(values, len(served.class_names)) for side, values in predicted.items()},
        "class_shares": [
            {"class": served.class_names[number] if number >= 0 else None, "held_out": known, "incoming": estimated}
            for number, known, estimated in zip(classes.classes, classes.held_out, classes.estimated)
        ],
        "class_names": served.class_names,
        "refused": [{"file": file, "reason": reason} for file, reason in arrivals.refused],
    }
    target = paths.drift_folder(dataset)
    target.mkdir(parents=True, exist_ok=True)
    figure.draw(result, views, target / "drift.png")
    file_io.write_json(target / "drift.json", result)
    return result


def measure(
    served: "ServedEnsemble",
    incoming: "np.ndarray",
    reference: "np.ndarray",
    labels: "np.ndarray",
    all_labels: "np.ndarray",
    seed: int,
) -> tuple[dict, dict, "ClassShares"]:
    """Measures the quantities that are compared.

    Args:
        served: the champion.
        incoming, reference: images, uint8, N×H×W×C each.
        labels: of the reference, int64.
        all_labels: of all held-out images, of which the reference is a sample.
        seed: of the classifier that tries to tell embeddings apart.

    Returns:
        Three values: the incoming and the reference values of each quantity, by view and name; the predicted classes,
        by "incoming" and "reference"; and the class shares, see `two_sample.class_shares`.
    """
    from flows.drift import embeddings, pixel_statistics
    from flows.statistics import two_sample

    sides = {"incoming": incoming, "reference": reference}
    pixels = {side: pixel_statistics.statistics(images) for side, images in sides.items()}
    probabilities, inside = {}, {}
    for side, images in sides.items():
        probabilities[side], inside[side] = embeddings.predict_and_embed(served, images)
    views = {
        "pixels": {name: (values, pixels["reference"][name]) for name, values in pixels["incoming"].items()},
        "predictions": {"confidence": tuple(probabilities[side].max(1) for side in sides)}
        | {
            f"probability of {name}": tuple(probabilities[side][:, number] for side in sides)
            for number, name in enumerate(served.class_names)
        },
    }
    if inside["incoming"].shape[1]:  # a champion without a linear layer has no embeddings
        found = two_sample.classifier_scores(inside["incoming"], inside["reference"], seed)
        views["embeddings"] = {"classifier score": found}
    predicted = {side: values.argmax(1) for side, values in probabilities.items()}
    classes = two_sample.class_shares(predicted["incoming"], predicted["reference"], labels, all_labels)
    return views, predicted, classes


def judged(views: dict, classes: "ClassShares", params: Drift) -> list[dict]:
    """Runs the tests. Returns `tests` of drift.json, see `drift`."""
    from flows.statistics import two_sample

    return [asdict(test) | {"verdict": verdict(test, params)} for test in two_sample.compare(views, classes)]


def agree(data: "Dataset", served: "ServedEnsemble", champion: dict) -> None:
    """Raises InputError if the champion was made for other images or classes than the data has. Prints a warning if it
    was scored on other test images."""
    from flows.tracking import mlflow_runs

    dataset = champion["name"]
    if (served.shape, served.class_names) != (tuple(data.card["shape"]), data.card["class_names"]):
        raise InputError(
            f"the champion, {dataset} version {champion['version']}, was made for other images or classes than "
            f"data/{dataset} has: retrain first"
        )
    if champion["tags"].get(mlflow_runs.TEST) != data.card["test_sha256"]:
        # Images that it was trained on may count as held out here.
        warning = (
            f"the champion, version {champion['version']}, was scored on other test images than data/{dataset} has"
        )
        messages.warn(f"{warning}: what is said of its predictions may be too strict")


def held_out(data: "Dataset", most: int, seed: int) -> tuple["np.ndarray", "np.ndarray"]:
    """A sample of at most `most` validation and test images, and their labels."""
    import numpy as np

    from flows.data.image_folder import sample

    validation, test = len(data.validation_indices), len(data.test_images)
    chosen = sample(validation + test, most, seed)
    from_validation = data.validation_indices[chosen[chosen < validation]]
    from_test = chosen[chosen >= validation] - validation
    return (
        np.concatenate([data.train_images[from_validation], data.test_images[from_test]]),
        np.concatenate([data.train_labels[from_validation], data.test_labels[from_test]]),
    )


def verdict(test: "Result", params: Drift) -> str:
    """The verdict on a test: "same", "small" or "drift".

    "small" is a significant difference that is too small to matter: with enough images every difference is significant.
    """
    if test.p >= params.alpha:
        return "same"
    least = params.class_share if test.view == "labels" else params.effect
    return "drift" if test.statistic >= least else "small"


def shares(predicted: "np.ndarray", classes: int) -> list[float]:
    import numpy as np

    return (np.bincount(predicted, minlength=classes) / len(predicted)).tolist()


def say(result: dict) -> None:
    for entry in result["refused"][:SHOWN]:
        click.echo(printable(f"left out: {entry['file']} {entry['reason']}"), err=True)
    if len(result["refused"]) > SHOWN:
        click.echo(f"left out: {len(result['refused']) - SHOWN} more, all named in drift.json", err=True)
    champion = result["champion"]
    click.echo(
        f"{result['incoming']:,} of {result['found']:,} incoming images against {result['reference']:,} held-out "
        f"images of {result['dataset']}, seen by {champion['name']} version {champion['version']}"
    )
    shown = ranking.strongest(result["tests"])
    width = max(len(test["name"]) for test in shown)
    click.echo(f"\n  {'view':<11}  {'quantity':<{width}}  distance  corrected p  verdict")
    for test in shown:
        auc = "" if test["auc"] is None else f"  (AUC {test['auc']:.3f})"
        click.echo(
            f"  {test['view']:<11}  {test['name']:<{width}}  {test['statistic']:8.3f}  {test['p']:11.2g}  "
            f"{test['verdict']}{auc}"
        )
    if any(test["view"] == "labels" and test["verdict"] == "drift" for test in result["tests"]):
        most = ranking.most_changed(result["class_shares"])
        click.echo(
            f"\nclass {most['class'] or '(the rare ones together)'} makes up {most['incoming']:.1%} of the incoming "
            f"images, by an estimate that allows for confusion, and {most['held_out']:.1%} of the held-out ones"
        )
    folder = os.path.relpath(paths.drift_folder(result["dataset"]))
    what = f"drift in {len(result['drifted'])} of {len(result['tests'])} tests" if result["drift"] else "no drift"
    click.echo(
        f"\n{what} (alpha {result['alpha']:g}, distance {result['effect']:g} or more, of class shares "
        f"{result['class_share']:g}): {folder}/drift.png, drift.json"
    )
