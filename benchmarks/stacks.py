"""What a network gains from training in a stack on one core, by the shape of the networks and the size of the stack:
what the rule of `flows.studies.stacks.size` is made by.

Images are random, which does not change the time. Sizes take turns, and what is compared is the CPU time of a step, the
least of all rounds: it depends less on other programs than the clock does.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.measure import ForeignLoad
from flows.params.recipes import Member
from flows.studies import stacks
from lightning_modules import fit
from lightning_modules.classifier import Classifier
from lightning_modules.images import Images
from lightning_modules.together import Together

SHAPES: dict[str, tuple[dict, int]] = {  # by name: the network, and the side of the images
    "64-32-10": ({"name": "mlp", "hidden": [32]}, 8),
    "64-128-10": ({"name": "mlp", "hidden": [128]}, 8),
    "64-128-128-10": ({"name": "mlp", "hidden": [128, 128]}, 8),
    "64-256-10": ({"name": "mlp", "hidden": [256]}, 8),
    "64-512-10": ({"name": "mlp", "hidden": [512]}, 8),
    "64-32×9-10": ({"name": "mlp", "hidden": [32] * 9}, 8),
    "784-128-10": ({"name": "mlp", "hidden": [128]}, 28),
    "rnn of 32, 8 rows": ({"name": "rnn", "hidden": 32}, 8),
    "lstm of 32, 8 rows": ({"name": "lstm", "hidden": 32}, 8),
    "gru of 32, 8 rows": ({"name": "gru", "hidden": 32}, 8),
}
SIZES = (1, 4, 8, 16, 32, 64)
BATCH, CLASSES, IMAGES = 64, 10, 1024
ROUNDS = 10


def measure(shapes: Sequence[str] = tuple(SHAPES), sizes: Sequence[int] = SIZES, rounds: int = ROUNDS) -> list[dict]:
    """A row for each shape: milliseconds of a step alone, and how many times as fast a network is in a stack."""
    torch.set_num_threads(1)
    return [row(name, sizes, rounds) for name in shapes]


def row(name: str, sizes: Sequence[int], rounds: int) -> dict:
    given, side = SHAPES[name]
    recipe = Member.model_validate({"network": given, "optimizer": {"name": "adam", "lr": 0.001}}).recipe
    best = dict.fromkeys(sizes, float("inf"))
    with ForeignLoad() as load:
        steps = {size: stepper(recipe, side, size) for size in sizes}
        for _ in range(rounds):
            for size, step in steps.items():
                best[size] = min(best[size], least(step, 10 if size == 1 else 3) / size)
    alone = best[sizes[0]]
    weights = sum(parameter.numel() for parameter in Classifier(recipe, [side, side, 1], CLASSES, 0, 1, 1).parameters())
    rule = stacks.size(recipe, [side, side, 1], CLASSES, weights, "cpu")
    gains = ", ".join(f"{size}: {alone / best[size]:.1f}" for size in sizes[1:])
    return {
        "what": f"{name}, {weights:,} weights, batch {BATCH}, Adam, one thread: a step of a network alone; "
        "times as fast in a stack, by its size",
        "ours": f"{1000 * alone:.2f} ms",
        "ratio": gains,
        "goal": f"the rule is {rule}",
        "load": load.share,
        "measured": {"weights": weights, "milliseconds": {size: 1000 * best[size] for size in sizes}, "rule": rule},
    }


def stepper(recipe: dict, side: int, size: int) -> Callable[[], None]:
    """A step of the training of `size` networks."""
    fit.quiet()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, side, side, 1), np.uint8)
    images = Images(pixels, random.integers(0, CLASSES, IMAGES), [0.5], [0.2])
    shape, seeds = [side, side, 1], list(range(size))
    if size == 1:
        module = Classifier(recipe, shape, CLASSES, 0, 1, BATCH)
    else:
        module = Together([recipe] * size, shape, CLASSES, seeds, 1, BATCH)
    module.attach(images, images)
    planned = module.configure_optimizers()
    module.optimizers = lambda use_pl_optimizer: planned["optimizer"]
    module.lr_schedulers = lambda: planned["lr_scheduler"]
    module.reseed(0)
    module.loss_sum = torch.zeros(size)
    index = module.draw_order()[..., :BATCH]
    module.train()
    return lambda: module.training_step([index], 0)


def least(step: Callable[[], None], count: int) -> float:
    """The least CPU seconds of a step, of `count`."""
    found = []
    for _ in range(count):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return min(found)
