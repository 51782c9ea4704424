"""Lightning's overhead per training step: the time of a Trainer's fit outside of our steps, measured within one run,
with our blocks of mini-batches and with blocks of one."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import data
from benchmarks.measure import RUNS, ForeignLoad, ratio, spread
from flows.params.recipes import Member

GOAL = 0.05  # milliseconds
RECIPE = {"network": {"name": "mlp", "hidden": [64]}, "optimizer": {"name": "adam", "lr": 0.001}}


def measure(images: data.Data | None = None, batch_size: int = 100, epochs: int = 5, runs: int = RUNS) -> list[dict]:
    """Rows of a small network, since the overhead does not depend on what a step computes."""
    from lightning_modules import classifier

    images = images or data.get("mnist")
    steps = epochs * -(-len(images.training[1]) // batch_size)
    costs: dict[int, list[float]] = {classifier.BLOCK: [], 1: []}
    with ForeignLoad() as load:
        for run in range(1 + runs):
            for block, measured in costs.items():
                cost = overhead(images, batch_size, epochs, block, run)
                if run:  # the first one is a warm-up
                    measured.append(1000 * cost / steps)
    ours, other = costs.values()
    ratios = [single / own for own, single in zip(ours, other)]
    median = statistics.median(ours)
    return [
        {
            "what": f"Lightning's cost of a step, in blocks of {classifier.BLOCK}, against blocks of one, over "
            f"{epochs} epochs of {steps // epochs} steps{images.remark}",
            "ours": spread(median, min(ours), max(ours), " ms"),
            "other": spread(statistics.median(other), min(other), max(other), " ms"),
            "ratio": ratio({"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}),
            "goal": f"at most {GOAL:g} ms",
            "reached": median <= GOAL,
            "load": load.share,
            "measured": {"ours_ms": ours, "other_ms": other, "steps": steps},
        }
    ]


def overhead(images: data.Data, batch_size: int, epochs: int, block: int, seed: int) -> float:
    """Seconds of one fit outside of training and validation steps."""
    from lightning_modules import classifier
    from lightning_modules.fit import fit

    recipe = Member.model_validate(RECIPE).model_dump()
    usual, classifier.BLOCK = classifier.BLOCK, block
    try:
        with time_in_steps() as spent:
            start = time.perf_counter()
            fit(
                recipe, images.training, images.held_out, mean=[0.5], std=[0.5], class_names=images.class_names,
                seed=seed, epochs=epochs, batch_size=batch_size, threads=1,
            )  # fmt: skip
            whole = time.perf_counter() - start
    finally:
        classifier.BLOCK = usual
    steps = -(-len(images.training[1]) // batch_size)
    assert spent["training_step"][1] == epochs * -(-steps // block), "blocks are not of the size that was asked for"
    return whole - sum(seconds for seconds, _ in spent.values())


@contextmanager
def time_in_steps() -> Iterator[dict[str, list]]:
    """Records the seconds of each call of a module's steps by Lightning, by the step's name."""
    from pytorch_lightning.strategies import Strategy

    spent = {}

    def counting(name: str, original):
        spent[name] = [0.0, 0]

        def call(self, *args, **kwargs):
            start = time.perf_counter()
            try:
                return original(self, *args, **kwargs)
            finally:
                spent[name][0] += time.perf_counter() - start
                spent[name][1] += 1

        return call

    originals = {name: getattr(Strategy, name) for name in ("training_step", "validation_step")}
    try:
        for name, original in originals.items():
            setattr(Strategy, name, counting(name, original))
        yield spent
    finally:
        for name, original in originals.items():
            setattr(Strategy, name, original)
