"""`trainyard drift FOLDER`: compares incoming images with those that the champion was made for.

Reads   FOLDER, data/<dataset>/, the champion from MLflow's registry, `drift` and `seed` of params.yaml
Writes  plots/<dataset>/drift/: drift.json (every test), drift.png
Run     python -m flows.drift FOLDER

Four views of the images are tested, see `flows.two_sample`: pixel statistics, what the champion predicts, the
embeddings inside its networks, and how often it predicts each class, from which follows how often each occurs. The
reference are validation and test images, never those that were trained on: a network is surer of what it has seen, and
any new image would look like drift.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows import project
from flows.console import run
from flows.foreign_text import printable
from flows.params import BY_DEFAULT, Drift, Limits, read
from lightning_modules.errors import InputError, counted

if TYPE_CHECKING:
    from flows.two_sample import ClassShares

FEWEST = 20  # images; with less, next to nothing but a wholly black picture would be found
DRIFT = 3  # exit code, beside 0, 1 and 2, which all commands have
SHOWN = 5  # files that are named on the terminal; drift.json names them all


def drift(place: Path, dataset: str, settings: Drift, seed: int, limits: Limits = BY_DEFAULT) -> dict:
    """Compares, and writes drift.json and drift.png.

    Args:
        place: a folder of image files, with or without subfolders, or an .npz file; see `image_folder.read`.
        seed: draws the samples on both sides.
        limits: for what FOLDER holds.

    Returns:
        What was written to drift.json: `drift` (true or false), `drifted` (names of what differs), `tests` (of each:
        view, name, statistic, corrected p, auc, verdict), `class_shares` (of each class, None for the rare ones
        together: its share of the held-out images, and that of the incoming ones as it is estimated), the numbers of
        images, and which files were refused.

    Raises:
        InputError: there is no champion, or there are too few images that can be compared, or the champion's answers
            are no numbers.
        UnavailableError: MLflow does not answer, or the champion cannot be loaded.
    """
    import numpy as np

    from flows import dataset as data_of
    from flows import drift_figure, image_folder

    data = data_of.load(dataset)
    shape = tuple(data.card["shape"])
    arrivals = image_folder.read(place, shape, settings.images, seed, limits)
    if len(arrivals.images) < FEWEST:
        refused = f" ({len(arrivals.refused)} more cannot be used)" if arrivals.refused else ""
        raise InputError(
            f"{place} has {counted(len(arrivals.images), 'image')} to be compared{refused}; it takes {FEWEST} or more"
        )
    known, labels = held_out(data, settings.images, seed)

    from flows import tracking
    from flows.served_ensemble import ServedEnsemble

    served, champion = tracking.load_champion(dataset)
    if not isinstance(served, ServedEnsemble):
        raise InputError(
            f"the champion, {dataset} version {champion['version']}, was not made by this project: drift looks into "
            "the networks of those that were"
        )
    all_labels = np.concatenate([data.labels("validation"), data.labels("test")])
    with tracking.loading(f"the champion, {dataset} version {champion['version']},"):
        agree(data, served, champion)
        views, predicted, classes = look(served, arrivals.images, known, labels, all_labels, seed)
    tests = judged(views, classes, settings)
    drifted = [test["name"] for test in tests if test["verdict"] == "drift"]
    result = {
        "drift": bool(drifted),
        "drifted": drifted,
        "dataset": dataset,
        "images": str(place),
        "champion": {"name": dataset, "version": champion["version"]},
        "alpha": settings.alpha,
        "effect": settings.effect,
        "class_share": settings.class_share,
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
    target = project.drift_folder(dataset)
    target.mkdir(parents=True, exist_ok=True)
    drift_figure.draw(result, views, target / "drift.png")
    project.write_json(target / "drift.json", result)
    return result


def look(served, incoming, reference, labels, all_labels, seed: int) -> tuple[dict, dict, "ClassShares"]:
    """What there is to be compared.

    Args:
        served: the champion, a `ServedEnsemble`.
        incoming, reference: uint8, N×H×W×C each.
        labels: of the reference, int64.
        all_labels: of all held-out images, of which the reference is a sample.
        seed: of the classifier that tries to tell embeddings apart.

    Returns:
        By view, by quantity, its values on either side; the predicted classes by side; and see `class_shares`.
    """
    from flows import embeddings, pixel_statistics, two_sample

    sides = {"incoming": incoming, "reference": reference}
    pixels = {side: pixel_statistics.statistics(images) for side, images in sides.items()}
    probabilities, inside = {}, {}
    for side, images in sides.items():
        probabilities[side], inside[side] = embeddings.look(served, images)
    views = {
        "pixels": {name: (values, pixels["reference"][name]) for name, values in pixels["incoming"].items()},
        "predictions": {"confidence": tuple(probabilities[side].max(1) for side in sides)}
        | {
            f"probability of {name}": tuple(probabilities[side][:, number] for side in sides)
            for number, name in enumerate(served.class_names)
        },
    }
    if inside["incoming"].shape[1]:  # a champion without a linear layer has none
        views["embeddings"] = {"classifier score": two_sample.classifier_scores(*inside.values(), seed)}
    predicted = {side: values.argmax(1) for side, values in probabilities.items()}
    return views, predicted, two_sample.class_shares(*predicted.values(), labels, all_labels)


def judged(views: dict, classes: "ClassShares", settings: Drift) -> list[dict]:
    """Every test with its verdict, see `drift`."""
    from flows import two_sample

    return [asdict(test) | {"verdict": verdict(test, settings)} for test in two_sample.compare(views, classes)]


def agree(data, served, champion: dict) -> None:
    """Raises InputError where the champion was made for other images or classes than the data has, and warns of one
    that was scored on other test images."""
    from flows import tracking

    dataset = champion["name"]
    if (served.shape, served.class_names) != (tuple(data.card["shape"]), data.card["class_names"]):
        raise InputError(
            f"the champion, {dataset} version {champion['version']}, was made for other images or classes than "
            f"data/{dataset} has: retrain first"
        )
    if champion["tags"].get(tracking.TEST) != data.card["test_sha256"]:
        # Its training images may be among those that count as held out here.
        warning = (
            f"the champion, version {champion['version']}, was scored on other test images than data/{dataset} has"
        )
        print(f"trainyard: {warning}: what is said of its predictions may be too strict", file=sys.stderr)


def held_out(data, most: int, seed: int):
    """A sample of at most `most` validation and test images, and their labels."""
    import numpy as np

    from flows.image_folder import sample

    validation, test = len(data.validation_indices), len(data.test_images)
    chosen = sample(validation + test, most, seed)
    from_validation = data.validation_indices[chosen[chosen < validation]]
    from_test = chosen[chosen >= validation] - validation
    return (
        np.concatenate([data.train_images[from_validation], data.test_images[from_test]]),
        np.concatenate([data.train_labels[from_validation], data.test_labels[from_test]]),
    )


def verdict(test, settings: Drift) -> str:
    """With enough images a p-value calls any difference sure: one that is too small to matter is no drift."""
    if test.p >= settings.alpha:
        return "same"
    least = settings.class_share if test.view == "labels" else settings.effect
    return "drift" if test.statistic >= least else "small"


def shares(predicted, classes: int) -> list[float]:
    import numpy as np

    return (np.bincount(predicted, minlength=classes) / len(predicted)).tolist()


def strongest(tests: list[dict]) -> list[dict]:
    """What a table shows: all but the classes' probabilities, and of these the one that differs most."""
    classes = [test for test in tests if test["name"].startswith("probability of ")]
    most = max(classes, key=lambda test: test["statistic"])
    return [test for test in tests if test is most or not test["name"].startswith("probability of ")]


def most_changed(class_shares: list[dict]) -> dict:
    return max(class_shares, key=lambda one: abs(one["incoming"] - one["held_out"]))


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
    shown = strongest(result["tests"])
    width = max(len(test["name"]) for test in shown)
    click.echo(f"\n  {'view':<11}  {'quantity':<{width}}  distance  corrected p  verdict")
    for test in shown:
        auc = "" if test["auc"] is None else f"  (AUC {test['auc']:.3f})"
        click.echo(
            f"  {test['view']:<11}  {test['name']:<{width}}  {test['statistic']:8.3f}  {test['p']:11.2g}  "
            f"{test['verdict']}{auc}"
        )
    if any(test["view"] == "labels" and test["verdict"] == "drift" for test in result["tests"]):
        most = most_changed(result["class_shares"])
        click.echo(
            f"\nclass {most['class'] or '(the rare ones together)'} makes up {most['incoming']:.1%} of the incoming "
            f"images, by an estimate that allows for confusion, and {most['held_out']:.1%} of the held-out ones"
        )
    folder = os.path.relpath(project.drift_folder(result["dataset"]))
    what = f"drift in {len(result['drifted'])} of {len(result['tests'])} tests" if result["drift"] else "no drift"
    click.echo(
        f"\n{what} (alpha {result['alpha']:g}, distance {result['effect']:g} or more, of class shares "
        f"{result['class_share']:g}): {folder}/drift.png, drift.json"
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", help="Whose data and champion; by default that of params.yaml.")
@click.option("--retrain", is_flag=True, help="On drift, send Prefect's server the event that starts a retraining.")
def command(folder: Path, dataset: str | None, retrain: bool) -> int:
    """Say whether the images in FOLDER differ from those that the champion was made for.

    FOLDER holds image files, in subfolders or not, or is an .npz file with an array `images`. Brightness, contrast,
    sharpness and saturation, the champion's confidence and probabilities, how often it predicts each class, and the
    embeddings inside its networks are compared with those of validation and test images by two-sample tests. Drift is
    what is both significant (`alpha`, after correction for the number of tests) and large enough to matter (`effect`,
    `class_share`): `drift` in params.yaml.

    \b
    Exit codes: 0 no drift, 3 drift, 2 bad input, 1 something failed.

    With --retrain, drift is told to the Prefect server that PREFECT_API_URL names, as the event trainyard.drift of
    the resource trainyard.dataset.<dataset>; a deployment with a trigger on it then retrains.
    """
    params = read()
    dataset = dataset or params.dataset
    if retrain:
        from flows import drift_event

        address = drift_event.server()  # known to be missing before the work, not after
    result = drift(folder, dataset, params.drift, params.seed, params.limits)
    say(result)
    if not result["drift"]:
        return 0
    if retrain:
        kept = ("drifted", "images", "champion", "alpha", "effect", "incoming", "reference")
        answered = drift_event.emit(dataset, {key: result[key] for key in kept})
        if answered:
            click.echo(f"told {address}, where this answers: {', '.join(answered)}")
        else:
            click.echo(f"told {address}, where no automation answers: has `prefect deploy --all` been run?", err=True)
    return DRIFT


if __name__ == "__main__":
    run(command)
