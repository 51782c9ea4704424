"""Seconds per step of a network: alone, and among several that train at once, stacked (ours), by vmap, or in streams.

Images are random, which does not change the time. A test proves that stacked networks learn what each learns alone.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.gpu_card import Budget, Card, Sizes, column, row, spread, tell
from benchmarks.rivals.functional import ByStreams, ByVmap
from lightning_modules import fit, names, networks
from lightning_modules.classifier import Classifier
from lightning_modules.images import Images
from lightning_modules.together import Together

CLASSES, EPOCHS, ROUNDS = 10, 3, 3
# Goal for the MLP: how many times as fast.
GOALS = {("MLP 512×3", 8): 5.0, ("MLP 512×3", 32): 12.0}
OPTIMIZER = {"name": "adamw", "lr": 0.001, "weight_decay": 0.01}


class Stepped:
    """Measures the seconds of each epoch's training, from drawing the augmentation to the last step."""

    def watched(self, card: Card) -> "Stepped":
        self.card, self.epochs_took = card, []
        return self

    def on_train_epoch_start(self) -> None:
        self.card.wait()
        self.started = time.perf_counter()
        super().on_train_epoch_start()

    def on_train_batch_end(self, outputs, block, block_index: int) -> None:
        if block_index + 1 == self.trainer.num_training_batches:
            self.card.wait()
            self.epochs_took.append(time.perf_counter() - self.started)


class SteppedClassifier(Stepped, Classifier):
    pass


class SteppedTogether(Stepped, Together):
    pass


def recipe(network: dict) -> dict:
    return names.DEFAULTS | {"network": network, "optimizer": OPTIMIZER}


def random_images(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    random, count = np.random.default_rng(0), sizes.steps * sizes.batch_together
    return random.integers(0, 256, (count, sizes.side, sizes.side, 1), np.uint8), random.integers(0, CLASSES, count)


def through_lightning(network: dict, count: int, card: Card, sizes: Sizes) -> float:
    """Seconds per step and network, with `count` networks that train at once. The first epoch is a warm-up."""
    images = random_images(sizes)
    settings = fit.Settings(
        mean=[0.5], std=[0.25], class_names=[str(number) for number in range(CLASSES)], epochs=EPOCHS,
        batch_size=sizes.batch_together, deterministic=False, **card.settings,
    )  # fmt: skip
    fit.prepare(settings)
    planned = [sizes.side, sizes.side, 1], CLASSES
    if count == 1:
        module = SteppedClassifier(recipe(network), *planned, 0, EPOCHS, sizes.batch_together)
    else:
        recipes, seeds = [recipe(network)] * count, list(range(count))
        module = SteppedTogether(recipes, *planned, seeds, EPOCHS, sizes.batch_together)
    fit.train(module.watched(card), count, images, tuple(part[:10] for part in images), settings)
    return min(module.epochs_took[1:]) / sizes.steps / count


def bare(way: type[ByVmap] | type[ByStreams], network: dict, count: int, card: Card, sizes: Sizes) -> float:
    """Like `through_lightning`, but in a bare loop by another way, with our batches."""
    images = Images(*random_images(sizes), [0.5], [0.25], device=card.device)
    images.begin_epoch(0, range(count), [None] * count)
    alone = []
    for seed in range(count):
        torch.manual_seed(seed)
        one = networks.build(recipe(network), (sizes.side, sizes.side, 1), CLASSES)
        alone.append(one.to(card.device, memory_format=torch.channels_last).train())
    trained = way(alone, images, OPTIMIZER, card.autocast)
    took = []
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(len(images), device=card.device) for _ in range(count)])
        card.wait()
        start = time.perf_counter()
        for index in order.split(sizes.batch_together, dim=1):
            trained.step(index)
        card.wait()
        took.append(time.perf_counter() - start)
    return min(took[1:]) / sizes.steps / count


def together(card: Card, sizes: Sizes, data: dict, budget: Budget) -> Iterator[dict]:
    """Rows for each network and count, measured in rounds: alone, stacked, by vmap, in streams."""
    fastest = {}
    for place, (name, network) in enumerate(sizes.networks.items()):
        own = budget.part(budget.left() / (len(sizes.networks) - place))
        for number, count in enumerate(sizes.counts):
            left = own.part(own.left() / (len(sizes.counts) - number))
            ways = {
                "alone": partial(through_lightning, network, 1, card, sizes),
                "stacked": partial(through_lightning, network, count, card, sizes),
                "vmap": partial(bare, ByVmap, network, count, card, sizes),
                "streams": partial(bare, ByStreams, network, count, card, sizes),
            }
            failed: dict[str, str] = {}
            rounds = left.repeat(ROUNDS, lambda _, ways=ways, failed=failed: one_round(ways, failed))
            taken = {way: column(rounds, way) for way in ways if way not in failed}
            medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
            tell(f"  {count} × {name}: {medians} {failed}")
            yield from rows(name, count, taken, failed)
            fastest[f"{count} × {name}"] = min(medians, key=medians.get)
    ways = ", ".join(f"{way} for {what}" for what, way in fastest.items())
    yield row("the fastest way of each", ours=ways, measured={"fastest": fastest})


def one_round(ways: dict[str, Callable[[], float]], failed: dict[str, str]) -> dict[str, float]:
    """Seconds by way. A way that fails is left out from then on, with the reason in `failed`, and the others go on."""
    result = {}
    for way, action in ways.items():
        if way in failed:
            continue
        try:
            result[way] = action()
        except Exception as error:
            if way in ("alone", "stacked"):
                raise
            failed[way] = f"{type(error).__name__}: {error}"
    return result


def rows(name: str, count: int, taken: dict[str, list[float]], failed: dict[str, str]) -> Iterator[dict]:
    words = {"stacked": "as one stacked computation", "vmap": "by torch.func.vmap", "streams": "in CUDA streams"}
    milliseconds = {way: [1000 * value for value in seconds] for way, seconds in taken.items()}
    for way, word in words.items():
        what = f"{count} × {name} {word}, a step of one network, against one after another"
        if way in failed:
            yield row(what, status=f"failed: {failed[way]}")
            continue
        ratios = [alone / own for alone, own in zip(taken["alone"], taken[way])]
        wanted = GOALS.get((name, count)) if way == "stacked" else None
        yield row(
            what,
            f"at least {wanted:g} times as fast" if wanted else "",
            ours=spread(milliseconds[way], " ms"),
            other=spread(milliseconds["alone"], " ms"),
            ratio=f"{spread(ratios, '')} times as fast",
            reached=statistics.median(ratios) >= wanted if wanted else None,
            runs=f"{len(ratios)} rounds",
            measured={"seconds": {"alone": taken["alone"], way: taken[way]}},
        )
