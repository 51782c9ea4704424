"""`trainyard predict IMAGE...`: classifies image files with the dataset's champion."""

import json
from pathlib import Path

import click

from flows.console import run
from flows.params import read
from lightning_modules.errors import InputError


def read_image(path: Path):
    """An image file, decoded.

    Raises:
        InputError: it cannot be read as an image.
    """
    from PIL import Image

    from flows.sources import FORMATS, WIDE_MODES

    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except Exception:  # Pillow's readers raise a dozen kinds of errors on a damaged file
        raise InputError(f"{path} is no image that can be read ({', '.join(FORMATS)})") from None
    if image.mode.startswith(WIDE_MODES):
        raise InputError(f"{path} has more than 8 bits a channel ({image.mode}): save it with 8")
    return image


def fitted(image, shape: list[int]):
    """The image as uint8 H×W×C of the given shape, resized where it has another size."""
    import numpy as np
    from PIL import Image

    image = image.convert("L" if shape[2] == 1 else "RGB")
    size = (shape[1], shape[0])
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).reshape(shape)


def predict(dataset: str, paths: list[Path]) -> list[dict]:
    """One dict per file: file, label, probability, and the probabilities of all classes.

    Raises:
        InputError: there is no champion, or a file is no image.
    """
    import numpy as np

    images = [read_image(path) for path in paths]  # before the seconds that the champion takes to load

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
    width = max(len(result["file"]) for result in results)
    for result in results:
        click.echo(f"{result['file']:<{width}}  {result['label']}  {result['probability']:.1%}")


if __name__ == "__main__":
    run(command)
