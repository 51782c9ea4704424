"""`trainyard predict IMAGE...`: classifies image files, and the images in folders, with the dataset's champion.

Where the champion predicts a number, the answer is that number; where it was trained on measurements instead of images,
it reads .csv files of them, see `measurements`.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands import measurements
from flows.machine.console import run
from flows.params.params_file import read
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project.errors import InputError
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    import numpy as np

    from flows.models.served_ensemble import ServedEnsemble
    from flows.tracking.loading import ForeignModel

BATCH = 256  # images in memory at a time
SHRUNK = 3  # warn of an image whose width or height is more than this many times the champion's: little of it is left


@dataclass(frozen=True)
class Unread:
    """An image file with a valid header, not decoded yet.

    Attributes:
        size: width and height.
    """

    path: Path
    size: tuple[int, int]
    limits: Limits


def read_image(path: Path, limits: Limits = DEFAULT_LIMITS) -> Unread:
    """Reads the header of an image file. The pixels come later: those of many files would not fit into memory.

    Raises:
        InputError: it cannot be read as an image.
    """
    from flows.data import image_file

    try:
        return Unread(path, image_file.header(path, limits).size, limits)
    except InputError as error:
        raise InputError(f"{name(path)} {error}") from None


def name(path: Path) -> str:
    """The path as text that is safe for a terminal and for JSON, whatever its bytes."""
    return printable(str(path))


def fitted(image: Unread, shape: tuple[int, ...]) -> "np.ndarray":
    """The image as uint8 H×W×C of the given shape, resized if necessary.

    Raises:
        InputError: it is damaged.
    """
    from flows.data import image_file

    try:
        return image_file.resized(image_file.content(image.path, image.limits), shape, image.limits)
    except InputError as error:
        raise InputError(f"{name(image.path)} {error}") from None


def files_of(paths: Sequence[Path]) -> tuple[list[Path], list[dict]]:
    """Replaces folders by their image files, with those of subfolders. Also returns a result, with a problem, for each
    folder without images."""
    from flows.data.image_file import SUFFIXES
    from flows.data.image_folder import image_files

    found: dict[Path, None] = {}  # each one once
    problems = []
    for path in paths:
        inside = image_files(path) if path.is_dir() else [path]
        found.update(dict.fromkeys(inside))
        if not inside:
            problem = f"{name(path)} has no image files ({', '.join(sorted(SUFFIXES))}), nor have its subfolders"
            problems.append({"file": name(path), "label": None, "problem": problem})
    return list(found), problems


def predict(dataset: str, files: Sequence[Path]) -> Iterator[dict]:
    """Classifies files. Yields a dict per file, in their order.

    Its keys are file, label, probability (of the label), probabilities (of all classes), model, made_of ([width,
    height] of the file) and size (that which it was resized to). Where a number is predicted: target (its name) and
    prediction instead of what is of classes; where sequences are, probability is that of the alignment. For a file that
    is no image: file, label (None) and problem. Of a .csv file each row is yielded, see `measurements.answers`.

    Raises:
        InputError: there is no champion, or it predicts from measurements, and a file is no .csv file.
    """
    model, limits = None, read().limits
    about: dict = {}
    if any(file.suffix.lower() == measurements.SUFFIX for file in files):
        from flows.tracking.loading import load_champion

        model, about = load_champion(dataset)
        if features := getattr(model, "features", None):
            if other := [file for file in files if file.suffix.lower() != measurements.SUFFIX]:
                raise InputError(refused_image(name(other[0]), dataset, features))
            yield from measurements.answers(model, about, files, limits)  # type: ignore[arg-type]  # a ServedEnsemble
            return
    for first in range(0, len(files), BATCH):
        batch = files[first : first + BATCH]
        # The first images are checked before the champion is loaded, which takes seconds.
        images, problems = read_images(batch, limits)
        if images and model is None:
            from flows.tracking.loading import load_champion

            model, about = load_champion(dataset)
        if model and (features := getattr(model, "features", None)):
            raise InputError(refused_image(name(batch[0]), dataset, features))
        yield from results(model, about, batch, images, problems)


def refused_image(file: str, dataset: str, features: Sequence[str]) -> str:
    return (
        f"{file} is no .csv file, and the champion of {dataset} predicts from measurements: give a .csv file whose "
        f"first line names {', '.join(features)}"
    )


def read_images(files: Sequence[Path], limits: Limits) -> tuple[dict[Path, Unread], dict[Path, str]]:
    """The images by file, and the problems of files that are no images by file."""
    images, problems = {}, {}
    for file in files:
        try:
            images[file] = read_image(file, limits)
        except InputError as error:
            problems[file] = str(error)
    return images, problems


def results(
    model: "ServedEnsemble | ForeignModel | None",
    about: dict,
    files: Sequence[Path],
    images: dict[Path, Unread],
    problems: dict[Path, str],
) -> Iterator[dict]:
    """Yields the results of one batch, see `predict`."""
    import numpy as np

    answers, pixels = {}, {}
    if images and model:
        shape = model.shape
        for file, image in images.items():
            try:
                pixels[file] = fitted(image, shape)
            except InputError as error:  # the header is valid, but the rest is damaged
                problems[file] = str(error)
    if pixels and model:
        found = answered(model, np.stack(list(pixels.values())), about)
        for file, answer in zip(pixels, found, strict=True):
            sizes = {"made_of": list(images[file].size), "size": [shape[1], shape[0]]}
            answers[file] = {"file": name(file)} | answer | sizes
    for file in files:
        yield answers.get(file) or {"file": name(file), "label": None, "problem": problems[file]}


def answered(model: "ServedEnsemble | ForeignModel", pixels: "np.ndarray", about: dict) -> Iterator[dict]:
    """What the model says of each image."""
    frame, task = model.predict(pixels), getattr(model, "task", "classification")
    made_by = {"model": f"{about['name']} version {about['version']}"}
    if task == "regression":
        for value in frame[model.target].tolist():  # type: ignore[union-attr]  # a ServedEnsemble
            yield measurements.prediction(model, value, about)  # type: ignore[arg-type]
        return
    if task == "sequence":
        for label, probability in zip(frame["label"], frame["probability"].tolist()):
            yield {"label": label, "probability": probability} | made_by
        return
    probabilities = frame.drop(columns="label")
    for number, label in enumerate(frame["label"]):
        of_classes = {key: float(value) for key, value in probabilities.loc[number].items()}
        yield {"label": label, "probability": max(of_classes.values()), "probabilities": of_classes} | made_by


def line(result: dict, width: int) -> str:
    """A result on one line of the terminal."""
    file = f"{result['file']}, row {result['row']}" if "row" in result else result["file"]
    if "prediction" in result:
        return f"{file:<{width}}  {printable(result['target'])} {result['prediction']:.4g}"
    return f"{file:<{width}}  {printable(result['label'])}  {result['probability']:.1%}"


def is_shrunk(result: dict) -> bool:
    """Whether an image was resized to less than a third of its width or height."""
    return any(was > SHRUNK * now for was, now in zip(result.get("made_of", ()), result.get("size", ())))


def warning(shrunk: Sequence[dict]) -> str:
    """The warning about images that were shrunk: names the first one, and counts the others."""
    first = shrunk[0]
    (width, height), (was_width, was_height) = first["size"], first["made_of"]
    more = f", and {len(shrunk) - 1:,} more like it" if len(shrunk) > 1 else ""
    return (
        f"warning: {first['file']} was made {width}×{height} of {was_width}×{was_height}{more}: the champion was "
        "trained on images of that size, and of larger ones it sees little. Cut out what is to be classified"
    )


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", help="Whose champion; by default that of params.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print all probabilities as JSON.")
def command(images: tuple[Path, ...], dataset: str | None, as_json: bool) -> int:
    """Classify IMAGES, files or folders, with the champion. A folder stands for all images in it and in its subfolders.

    Images are converted to the grey or colour, and resized to the size, that the champion was trained on. There is a
    warning if an image shrinks to less than a third of its width or height. A file that is no image is named, and the
    others are still classified. Exit code 0: all are classified; 1: some are not; 2: none is.

    A champion that was trained on measurements takes .csv files instead: the first line names them, and each other line
    gets a prediction.
    """
    files, without = files_of(images)
    width = max((len(name(file)) for file in files), default=0)
    told, problems, shrunk = [], 0, []
    for result in itertools.chain(predict(dataset or read().dataset, files), without):
        if "problem" in result:
            problems += 1
            click.echo(f"trainyard: {result['problem']}", err=True)
        elif not as_json:
            click.echo(line(result, width))
        if is_shrunk(result):
            shrunk.append(result)
        told.append(result)
    if problems == len(told):
        return 2
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    if shrunk:
        click.echo(f"trainyard: {warning(shrunk)}", err=True)
    if problems:
        click.echo(f"trainyard: {problems:,} of {len(told):,} could not be classified: see above", err=True)
    return 1 if problems else 0


if __name__ == "__main__":
    run(command)
