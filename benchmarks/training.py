"""Seconds per epoch of one network: ours, which logs to MLflow and saves a checkpoint, against what a user would use
instead: the usual script, a bare PyTorch loop, Keras.

All train on the same images with the same batch size, number of steps and cores, and are scored on the same held-out
images at the end. Each run has another seed.
"""

from itertools import count

from benchmarks import data
from benchmarks.measure import RUNS, compared, in_turn
from benchmarks.sides import Sides

# Keras's initial weights; the other rivals use the same.
SHARED = {"initializer": "xavier_uniform", "dropout": 0.3, "optimizer": {"name": "adam", "lr": 0.001}}
MLP = {"network": {"name": "mlp", "hidden": [512, 512, 512]}, **SHARED}
CNN = {"network": {"name": "cnn"}, **SHARED}


def measure() -> list[dict]:
    name = "MNIST MLP 512×3, batch 100"
    rivals = {"usual_script": ("float32", "same"), "bare_loop": ("float32", "same"), "keras_fit": ("same",)}
    mlp = against(name, data.get("mnist"), MLP, 100, rivals, 1.2)
    name = "CIFAR-10 CNN of five convolutions, 5,000 images, batch 256"
    del rivals["usual_script"]
    cnn = against(name, data.get("cifar10").head(5000, 500), CNN, 256, rivals, 2.7)
    return mlp + cnn


def against(
    what: str, images: data.Data, recipe: dict, batch_size: int, rivals: dict[str, tuple[str, ...]],
    goal: float | None = None, *, epochs: int = 1, runs: int = RUNS, threads: int | None = None,
) -> list[dict]:  # fmt: skip
    """Rows of one network's training against each of the rivals.

    Args:
        rivals: modules of benchmarks.rivals, each with its precisions: the one that ours chooses on this machine, or
            float32, the default of the rivals.
        goal: seconds that ours may take.
    """
    rows = []
    with Sides(images, recipe, {"batch_size": batch_size, "epochs": epochs}, threads) as sides:
        ours = sides.ours()
        chosen = ours.about["precision"]
        for name, precisions in rivals.items():
            rival = sides.rival(name)
            for precision in dict.fromkeys(chosen if one == "same" else one for one in precisions) if rival else ():
                seeds, other_seeds = count(), count()
                times = in_turn(
                    lambda: ours(seed=next(seeds), precision=chosen),  # noqa: B023
                    lambda: rival(seed=next(other_seeds), precision=precision),  # noqa: B023
                    runs,
                )
                title = f"{what}: an epoch in {chosen}, against {rival.about} in {precision}{images.remark}"
                rows.append(compared(title, times, goal, images.chance))
    return rows
