"""Which trials train together as one stacked computation."""

from collections.abc import Sequence
from typing import Any

from flows.studies.trials import Trial

# Networks made of fully connected layers alone. Convolutions gain nothing from stacking on a CPU.
DENSE = ("mlp", "shallow")
MOST = 32  # networks in a stack
# Weights of all networks in a stack on a CPU. With gradients and an optimizer's state they fit into a core's cache.
LARGEST = 2**18


def size(recipe: dict[str, Any], shape: Sequence[int], classes: int, weights: int, accelerator: str) -> int:
    """The number of networks in a stack: a rule by shape and device, never a measurement, so that the bits of a study
    depend on nothing else.

    Args:
        shape: height, width and channels of an image.
        weights: parameters of one network.
    """
    from lightning_modules import networks, together
    from lightning_modules.networks.stacking import NotStackableError, stack

    if accelerator == "cpu" and recipe["network"]["name"] not in DENSE:
        return 1
    try:
        together.refuse_unstackable(recipe)
        stack([networks.build(recipe, shape, classes)])
    except NotStackableError:
        return 1
    return MOST if accelerator == "gpu" else max(1, min(MOST, LARGEST // weights))


def alike(trial: Trial) -> str:
    """Trials for which this is the same can train together."""
    from lightning_modules.together import shared

    return repr((sorted(shared(dict(trial.recipe)).items()), sorted(trial.settings.items())))


def stacks(trials: Sequence[Trial], most: int, even: bool = True) -> list[list[Trial]]:
    """The trials of one round in stacks of nearly equal size, of about `most` networks at most. A trial is never
    divided.

    Args:
        even: whether to make an even number of stacks, so that two cores end together: where few others are trained
            meanwhile.
    """
    networks = [len(trial.seeds) for trial in trials]
    count = -(-sum(networks) // most)
    if even and count % 2 and count < len(trials):
        count += 1
    share = sum(networks) / count
    found: list[list[Trial]] = [[]]
    filled = 0
    for trial, number in zip(trials, networks):
        if found[-1] and filled + number / 2 > share * len(found):
            found.append([])
        found[-1].append(trial)
        filled += number
    return found
