"""Seconds until a network reaches an accuracy, by the rules of the published records: CIFAR-10 to 94 % and 96 %, MNIST
to 99 %.

The clock runs from the moment the images are on the device until the test images' logits are computed: whitening,
Lightning's Trainer and its set-up, training, validation on 100 images, test-time views. It does not run while images
are uploaded and padded, and a shorter training before the first one warms everything up (Jordan, arXiv:2404.00498).
The last epoch's weights are tested. The 100 validation images are also trained on, so that training uses the whole
training split; nothing is chosen by them.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from benchmarks.gpu_card import Budget, Card, Sizes, column, percent, row, spread, tell
from benchmarks.gpu_data import Split
from benchmarks.rivals import airbench_script
from lightning_modules import fit, names, views
from lightning_modules.classifier import Classifier
from lightning_modules.images import Images

AIRBENCH = Path(__file__).parents[1] / "docs" / "members" / "airbench.yaml"
VALIDATION = 100
TEST_BATCH = 2000


class Timed(Classifier):
    """A Classifier with a clock, tested while it is still on the device."""

    def watched(self, card: Card, test: Images, test_time_views: str) -> "Timed":
        self.card, self.test_images, self.views = card, test, test_time_views
        return self

    def attach(self, *given) -> "Timed":
        super().attach(*given)
        self.card.wait()
        self.started = time.perf_counter()
        return self

    def on_train_end(self) -> None:
        self.network.eval()
        hits = torch.zeros((), device=self.device)
        with torch.no_grad(), self.card.autocast():
            for index in torch.arange(len(self.test_images), device=self.device).split(TEST_BATCH):
                images, labels = self.test_images.batch(index)
                hits += (views.logits(self.network, images, self.views).argmax(1) == labels).sum()
        self.accuracy = hits.item() / len(self.test_images)
        self.card.wait()
        self.seconds = time.perf_counter() - self.started


def train(member: dict, split: Split, test: Images, card: Card, seed: int, deterministic: bool = False) -> dict:
    """Trains a member of params.yaml through Lightning.

    Returns:
        seconds by the clock, accuracy (0 to 1), and `whole`: seconds from the arrays in memory to the result.
    """
    begin = time.perf_counter()
    recipe = names.DEFAULTS | member
    shape, classes = list(split.train[0].shape[1:]), int(split.train[1].max()) + 1
    epochs, batch_size = member["epochs"], member["batch_size"]
    settings = fit.Settings(
        mean=split.mean, std=split.std, class_names=[str(number) for number in range(classes)], epochs=epochs,
        batch_size=batch_size, augment=member["augment"], deterministic=deterministic, **card.settings,
    )  # fmt: skip
    fit.prepare(settings)
    module = Timed(recipe, shape, classes, seed, epochs, batch_size).watched(card, test, recipe["test_time_views"])
    validation = tuple(part[:VALIDATION] for part in split.train)
    fit.train(module, 1, split.train, validation, settings)
    return {"seconds": module.seconds, "accuracy": module.accuracy, "whole": time.perf_counter() - begin}


def test_images(split: Split, card: Card) -> Images:
    return Images(*split.test, split.mean, split.std, device=card.device)


def airbench(widths: tuple[int, ...], depth: int, epochs: int, batch_size: int, augment: str) -> dict:
    """The airbench member of docs/members, adapted to a GPU: all training images, and the published epochs."""
    member = yaml.safe_load(AIRBENCH.read_text(encoding="utf-8"))["airbench"]
    share = batch_size / member["batch_size"]  # some hyper-parameters are proportional to the batch size
    optimizer = dict(member["optimizer"])
    for name in ("sgd_lr", "bias_lr", "weight_decay"):
        optimizer[name] *= share
    network = {"name": "airbench", "widths": list(widths), "depth": depth}
    changed = {"network": network, "optimizer": optimizer, "epochs": epochs, "batch_size": batch_size}
    return member | changed | {"augment": augment}


def cifar_94(card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget) -> Iterator[dict]:
    """Rows of ours and the bare script, in turn."""
    split, goal = data["cifar10"], "94 % in at most 3 s, and 1.3 times the bare script"
    test = test_images(split, card)
    place = {"device": card.device}
    uploaded = [tuple(torch.tensor(part, **place) for part in parts) for parts in (split.train, split.test)]

    def both(seed: int, epochs: int) -> dict:
        member = airbench(sizes.widths_94, 2, epochs, sizes.batch_94, "nudge_altflip")
        recipe = airbench_script.Recipe(epochs, sizes.batch_94, sizes.widths_94)
        ours = train(member, split, test, card, seed)
        other = airbench_script.run(*uploaded, split.mean, split.std, recipe, seed)
        tell(f"  {epochs} epochs, seed {seed}: ours {ours}, bare script {other}")
        return {"ours": ours, "other": other, "ratio": ours["seconds"] / other["seconds"]}

    both(seed=999, epochs=1)  # warm-up
    longest = 0.0
    for epochs in sizes.epochs_94:
        if budget.left() < longest:
            return
        start = time.monotonic()
        pairs = budget.repeat(sizes.runs, lambda seed, epochs=epochs: both(seed, epochs))
        longest = (time.monotonic() - start) / len(pairs) * 1.5
        ours, other, ratios = column(pairs, "ours"), column(pairs, "other"), column(pairs, "ratio")
        accuracy = statistics.fmean(column(ours, "accuracy"))
        seconds, ratio = statistics.fmean(column(ours, "seconds")), statistics.median(ratios)
        yield row(
            f"CIFAR-10, airbench, {epochs} epochs through Lightning, against a bare script of the same arithmetic",
            goal,
            ours=f"{spread(column(ours, 'seconds'))}; {spread(column(ours, 'whole'))} with upload and tear-down",
            other=spread(column(other, "seconds")),
            ratio=f"ours takes {spread(ratios, '')} times as long",
            accuracy=f"{percent(column(ours, 'accuracy'))} / {percent(column(other, 'accuracy'))}",
            reached=accuracy >= 0.94 and seconds <= 3 and ratio <= 1.3 and len(pairs) >= 10,
            runs=f"{len(pairs)} seeds each",
            measured={"epochs": epochs, "pairs": pairs},
        )
        if accuracy >= 0.94:
            return


def cifar_deterministic(card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget) -> Iterator[dict]:
    """Rows on `deterministic: true`: its cost, and whether the same seed gives the same result twice."""
    split = data["cifar10"]
    test = test_images(split, card)
    member = airbench(sizes.widths_94, 2, sizes.epochs_94[0], sizes.batch_94, "nudge_altflip")
    runs = budget.repeat(2, lambda _: train(member, split, test, card, 0, deterministic=True))
    yield row(
        f"CIFAR-10, airbench, {sizes.epochs_94[0]} epochs, deterministic",
        "the same accuracy for the same seed",
        ours=spread(column(runs, "seconds")),
        accuracy=", ".join(f"{result['accuracy']:.2%}" for result in runs),
        reached=len(runs) == 2 and runs[0]["accuracy"] == runs[1]["accuracy"],
        runs=f"{len(runs)} of one seed",
        measured={"runs": runs},
    )


def cifar_compiled(card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget) -> Iterator[dict]:
    """Rows of the bare script with torch.compile, as published. The first run compiles, and does not count."""
    split = data["cifar10"]
    place = {"device": card.device}
    uploaded = [tuple(torch.tensor(part, **place) for part in parts) for parts in (split.train, split.test)]
    recipe = airbench_script.Recipe(sizes.epochs_94[0], sizes.batch_94, sizes.widths_94)
    short = dataclasses.replace(recipe, epochs=1)
    airbench_script.run(*uploaded, split.mean, split.std, short, 0, compiled=True)
    runs = budget.repeat(
        sizes.runs // 2, lambda seed: airbench_script.run(*uploaded, split.mean, split.std, recipe, seed, compiled=True)
    )
    yield row(
        f"CIFAR-10, {recipe.epochs} epochs, the bare script compiled",
        other=spread(column(runs, "seconds")),
        accuracy=percent(column(runs, "accuracy")),
        runs=f"{len(runs)} seeds",
        measured={"runs": runs},
    )


def alone(
    what: str, goal: tuple[float, float], members: list[dict], split: Split, card: Card, sizes: Sizes, budget: Budget
) -> Iterator[dict]:
    """A row for each member, until one reaches the goal, an accuracy in a number of seconds."""
    test = test_images(split, card)
    train(members[0] | {"epochs": 1}, split, test, card, 999)  # warm-up
    longest = 0.0
    for member in members:
        if budget.left() < longest:
            return
        runs = budget.repeat(sizes.runs, lambda seed, member=member: train(member, split, test, card, seed))
        longest = max(column(runs, "whole")) * 1.5
        tell(f"  {member['epochs']} epochs: {runs}")
        accuracy, seconds = statistics.fmean(column(runs, "accuracy")), statistics.fmean(column(runs, "seconds"))
        yield row(
            f"{what}, {member['epochs']} epochs through Lightning",
            f"{100 * goal[0]:g} % in at most {goal[1]:g} s",
            ours=f"{spread(column(runs, 'seconds'))}; {spread(column(runs, 'whole'))} with upload and tear-down",
            accuracy=percent(column(runs, "accuracy")),
            reached=accuracy >= goal[0] and seconds <= goal[1],
            runs=f"{len(runs)} seeds",
            measured={"epochs": member["epochs"], "runs": runs},
        )
        if accuracy >= goal[0]:
            return


def cifar_96(card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget) -> Iterator[dict]:
    depth, augment = 3, "shift_altflip_cutout"
    members = [airbench(sizes.widths_96, depth, epochs, sizes.batch_96, augment) for epochs in sizes.epochs_96]
    yield from alone("CIFAR-10, airbench96", (0.96, 25), members, data["cifar10"], card, sizes, budget)


def mnist(card: Card, sizes: Sizes, data: dict[str, Split], budget: Budget) -> Iterator[dict]:
    """Rows of a narrower airbench with one convolution per block, and without flips: a mirrored digit is no digit."""
    members = []
    for epochs in sizes.epochs_mnist:
        member = airbench(sizes.widths_mnist, 1, epochs, sizes.batch_mnist, "none")
        optimizer = member["optimizer"] | {"sgd_lr": 1.74}
        members.append(member | {"optimizer": optimizer, "label_smoothing": 0.1, "test_time_views": "none"})
    yield from alone("MNIST, a small airbench", (0.99, 0.5), members, data["mnist"], card, sizes, budget)
