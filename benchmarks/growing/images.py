"""Growth with images: random, grey, 28×28; the size is the number of training images, and a tenth more validate."""

from pathlib import Path

import numpy as np

from benchmarks.data import Data, lay_out
from benchmarks.growing import made
from benchmarks.growing.steps import Steps, grow
from flows.data import dataset
from flows.params import recipes

RECIPE = recipes.Member.model_validate(made.MEMBER | {"network": {"name": "mlp", "hidden": [64]}}).recipe
SHAPE, NAMES = (28, 28, 1), [str(number) for number in range(10)]


def random_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, *SHAPE), np.uint8), random.integers(0, len(NAMES), count)


def at(steps: Steps, size: int) -> None:
    import torch

    from lightning_modules import networks, scores, weights
    from lightning_modules.fit import fit

    settings = made.make(Path("a project"), made.tiny(1))
    count = size + size // 10
    data = Data(settings.dataset, random_images(count), random_images(size // 10), NAMES, False)
    validation = np.arange(size, count)
    steps.take("data/<dataset>/ written", size, lambda: lay_out(data, validation, Path.cwd()))
    steps.take("data/<dataset>/ loaded and checked", size, lambda: dataset.load(settings.dataset).split("train"))
    loaded = dataset.load(settings.dataset)
    card = {key: loaded.card[key] for key in ("class_names", "mean", "std")}
    training = loaded.split("train")
    given = {"training": training, "validation": loaded.split("validation"), **card}
    feed = {"epochs": 1, "batch_size": 128, "threads": 1}
    steps.take("an epoch of training, batches of 128", size, lambda: fit(RECIPE, seed=0, **feed, **given))
    predictor = weights.Predictor(networks.build(RECIPE, SHAPE, len(NAMES)), card["mean"], card["std"]).eval()
    labels = torch.from_numpy(training[1])
    steps.take("predicted and scored", size, lambda: scores.score(weights.predict(predictor, training[0]), labels))


if __name__ == "__main__":
    grow(at)
