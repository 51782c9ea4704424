"""`trainyard predict IMAGE...`: classifies image files with the dataset's champion."""

import json
from dataclasses import dataclass
from pathlib import Path

import click

from flows.console import run
from flows.foreign_text import printable
from flows.params import BY_DEFAULT, Limits, read
from lightning_modules.errors import InputError


@dataclass(frozen=True)
class Unread:
    """An image file that can be one by what it says of itself. size: width and height."""

    path: Path
    size: tuple[int, int]
    limits: Limits


def read_image(path: Path, limits: Limits = BY_DEFAULT) -> Unread:
    """An image file, of which no pixel is decoded yet: those of many would not fit into memory.

    Raises:
        InputError: it cannot be read as an image.
    """
    from flows import image_file

    try:
        return Unread(path, image_file.header(path, limits).size, limits)
    except InputError as error:
        raise InputError(f"{path} {error}") from None


def fitted(image: Unread, shape: list[int]):
    """The image as uint8 H×W×C of the given shape, resized where it has another size.

    Raises:
        InputError: it is damaged.
    """
    from flows import image_file

    try:
        return image_file.resized(image_file.content(image.path, image.limits), tuple(shape), image.limits)
    except InputError as error:
        raise InputError(f"{image.path} {error}") from None


def predict(dataset: str, paths: list[Path]) -> list[dict]:
    """One dict per file: file, label, probability, and the probabilities of all classes.

    Raises:
        InputError: there is no champion, or a file is no image.
    """
    import numpy as np

    limits = read().limits
    images = [read_image(path, limits) for path in paths]  # before the seconds that the champion takes to load

    from flows.tracking import load_champion

    model, champion = load_champion(dataset)
    shape = list(model.metadata.get_input_schema().inputs[0].shape[1:])
    frame = model.predict(np.stack([fitted(image, shape) for image in images]))
    probabilities = frame.drop(columns="label")
    return [
        {
            "file": str(path),
            "label": frame["label"][number],
            "probability": float(probabilities.loc[number].max()),
            "probabilities": {name: float(value) for name, value in probabilities.loc[number].items()},
            "model": f"{champion['name']} version {champion['version']}",
        }
        for number, path in enumerate(paths)
    ]


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", help="Whose champion; by default that of params.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print all probabilities as JSON.")
def command(images: tuple[Path, ...], dataset: str | None, as_json: bool) -> None:
    """Classify IMAGES with the champion.

    Images are converted to the grey or colour, and resized to the size, that the champion was trained on.
    """
    results = predict(dataset or read().dataset, list(images))
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
        return
    width = max(len(printable(result["file"])) for result in results)
    for result in results:
        click.echo(f"{printable(result['file']):<{width}}  {printable(result['label'])}  {result['probability']:.1%}")


if __name__ == "__main__":
    run(command)
