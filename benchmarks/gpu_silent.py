"""Whether a training step waits for the GPU: torch raises an error where it would, and a profile counts the waits."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_accuracy import airbench
from benchmarks.gpu_card import Budget, Card, Sizes, row, tell
from lightning_modules import fit, names
from lightning_modules.classifier import Classifier
from lightning_modules.together import Together

EPOCHS, CLASSES, NETWORKS = 3, 10, 8
# CUPTI's names of events that wait. Copies within the GPU are not among them.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy HtoD", "Memcpy DtoH")


class Watched:
    """A Classifier whose first epoch is a warm-up, whose second raises an error on a wait, and whose third is
    profiled."""

    def training_step(self, block, block_index: int) -> None:
        step = super().training_step
        if self.current_epoch == 1:
            with no_waiting(self.device):
                step(block, block_index)
        elif self.current_epoch == 2 and block_index == 0:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            with profile(activities=kinds) as seen:
                step(block, block_index)
            self.seen, self.steps = seen, len(block)
        else:
            step(block, block_index)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class WatchedClassifier(Watched, Classifier):
    pass


class WatchedTogether(Watched, Together):
    pass


def counts(seen: profile) -> dict[str, int]:
    """Counts each of WAITS in a profile. The profile itself waits once, when it ends."""
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        for name in WAITS:
            if event.key.startswith(name):
                found[name] += event.count
    return {name: found[name] for name in WAITS}


def silent(card: Card, sizes: Sizes, data: dict, budget: Budget) -> Iterator[dict]:
    random, count = np.random.default_rng(0), sizes.steps * sizes.batch_together
    labels = random.integers(0, CLASSES, count)
    pixels = random.integers(0, 256, (count, sizes.side, sizes.side, 3), np.uint8)
    dropping = {
        "dropout": 0.3,
        "label_smoothing": 0.1,
        "optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.01},
    }
    recipes = {
        "airbench": airbench(sizes.widths_94, 3, EPOCHS, sizes.batch_together, "shift_altflip_cutout"),
        **{name: {"network": network, "augment": "shift_flip", **dropping} for name, network in sizes.networks.items()},
    }
    for name, member in recipes.items():
        recipe = names.DEFAULTS | member
        planned = [sizes.side, sizes.side, 3], CLASSES
        one = WatchedClassifier(recipe, *planned, 0, EPOCHS, sizes.batch_together)
        modules = {name: (one, 1)}
        if name != "airbench":
            seeds = list(range(NETWORKS))
            many = WatchedTogether([recipe] * NETWORKS, *planned, seeds, EPOCHS, sizes.batch_together)
            modules[f"{NETWORKS} × {name}, stacked"] = many, NETWORKS
        for what, (module, networks) in modules.items():
            if budget.left() < 1:
                return
            yield watch(what, module, networks, (pixels, labels), member["augment"], card, sizes)


def watch(what: str, module, networks: int, images: tuple, augment: str, card: Card, sizes: Sizes) -> dict:
    settings = fit.Settings(
        mean=[0.5] * 3, std=[0.25] * 3, class_names=[str(number) for number in range(CLASSES)], epochs=EPOCHS,
        batch_size=sizes.batch_together, augment=augment, deterministic=False, **card.settings,
    )  # fmt: skip
    fit.prepare(settings)
    what, goal = f"no wait for the device in a training step: {what}", "no wait, no copy from or to the host"
    try:
        fit.train(module, networks, images, tuple(part[:10] for part in images), settings)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        tell(f"  {what}: {error}")
        return row(what, goal, ours=str(error).splitlines()[0], reached=False)
    found = counts(module.seen)
    # One wait is expected, at the end of the profile.
    copies = found["Memcpy HtoD"] + found["Memcpy DtoH"] + found["cudaStreamSynchronize"]
    tell(f"  {what}, {module.steps} steps: {found}")
    return row(
        what,
        goal,
        ours=", ".join(f"{number} {name}" for name, number in found.items()) + f" in {module.steps} steps",
        reached=copies == 0,
        measured={"steps": module.steps, "counts": found},
    )
