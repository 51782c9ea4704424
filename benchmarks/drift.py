"""`python -m benchmarks.drift`, in a project with a champion: how often drift is found, by change and number of images.

Samples of the test split are changed in a known way and compared with the held-out images, as `trainyard drift` does.
Without a change, the share is that of false alarms.
"""

from collections.abc import Callable

import click
import numpy as np
from scipy import ndimage

from flows.data import dataset
from flows.drift import judgement
from flows.params.params_file import read
from flows.tracking import loading

COUNTS = (50, 200, 1000)
TRIES, UNCHANGED = 20, 50  # samples of each change, and of none


def noise(deviation: float) -> Callable:
    return lambda images, rng: rounded(images + rng.normal(0, deviation, images.shape))


def blur(sigma: float) -> Callable:
    return lambda images, rng: rounded(ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0)))


def contrast(factor: float) -> Callable:
    def change(images: np.ndarray, rng) -> np.ndarray:
        mean = images.mean((1, 2), keepdims=True)
        return rounded((images - mean) * factor + mean)

    return change


def rounded(images: np.ndarray) -> np.ndarray:
    return images.round().clip(0, 255).astype(np.uint8)


def rotated(images: np.ndarray, rng) -> np.ndarray:
    return ndimage.rotate(images, 15, axes=(1, 2), reshape=False, order=1)


CHANGES: dict[str, Callable] = {
    "none": lambda images, rng: images,
    "inverted": lambda images, rng: 255 - images,
    "blurred, σ 0.5 pixels": blur(0.5),
    "noise, standard deviation 10 of 255": noise(10),
    "noise, 40": noise(40),
    "contrast × 0.8": contrast(0.8),
    "moved by 1 pixel": lambda images, rng: np.roll(images, 1, axis=2),
    "rotated by 15°": rotated,
}
FREQUENT = (1.5, 2, 3)  # times as many images of class 3


def sample(labels: np.ndarray, count: int, times: float, rng: np.random.Generator) -> np.ndarray:
    """Draws the indices of `count` images; class 3 is `times` as frequent as in `labels`. Without replacement if
    `times` is 1."""
    if times == 1 and count <= len(labels):
        return rng.choice(len(labels), count, replace=False)
    weights = np.where(labels == 3, times, 1.0)
    return rng.choice(len(labels), count, p=weights / weights.sum())


def share_found(served, data, change: Callable, times: float, count: int, tries: int) -> float:
    images, labels = data.split("test")
    settings, found = read().drift, 0
    all_labels = np.concatenate([data.labels("validation"), data.labels("test")])
    for number in range(tries):
        rng = np.random.default_rng([number, count])
        some = change(images[sample(labels, count, times, rng)], rng)
        known, known_labels = judgement.held_out(data, settings.images, number)
        views, _, classes = judgement.measure(served, some, known, known_labels, all_labels, number)
        found += any(test["verdict"] == "drift" for test in judgement.judged(views, classes, settings))
    return found / tries


@click.command()
@click.option("--only", metavar="TEXT", default="", help="Changes with this text in their name alone.")
def main(only: str) -> None:
    """Print the share of samples with the verdict drift, as a markdown table."""
    name = read().dataset
    data, (served, champion) = dataset.load(name), loading.load_champion(name)
    rows = {label: (change, 1.0) for label, change in CHANGES.items()}
    rows |= {f"one class {times:g} times as frequent": (CHANGES["none"], times) for times in FREQUENT}
    counts = [count for count in COUNTS if count <= len(data.test_images)]
    print(f"{name} version {champion['version']}: {UNCHANGED} samples without a change, {TRIES} with one\n")
    print(f"| change | {' | '.join(f'{count:,} images' for count in counts)} |\n|---|{'---:|' * len(counts)}")
    for label, (change, times) in rows.items():
        if only not in label:
            continue
        tries = UNCHANGED if label == "none" else TRIES
        shares = [share_found(served, data, change, times, count, tries) for count in counts]
        print(f"| {label} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
