"""Which trials train together as one stacked computation."""

from collections.abc import Sequence
from typing import Any

from flows.studies.trials import Trial
from lightning_modules.names import RECURRENT

# Networks that gain from stacking on a CPU: of layers that are fully connected, and recurrent ones.
STACKED = ("mlp", "shallow", *RECURRENT)
MOST = 32  # networks in a stack
# Weights of all networks in a stack on a CPU, near which `python -m benchmarks stacks` finds the greatest gain: with
# gradients and an optimizer's state they fit into a core's cache. Networks of which fewer than LEAST fit gain nothing:
# one alone fills that cache as well. docs/speed.md has the measurement.
LARGEST = 2**18
LEAST = 4


def size(recipe: dict[str, Any], shape: Sequence[int], classes: int, weights: int, accelerator: str) -> int:
    """The number of networks in a stack: a rule by shape and device, never a measurement, so that the bits of a study
    depend on nothing else.

    Args:
        shape: height, width and channels of an image.
        weights: parameters of one network.
    """
    from lightning_modules import networks, together
    from lightning_modules.networks.stacking import NotStackableError, stack

    if accelerator == "cpu" and recipe["network"]["name"] not in STACKED:
        return 1
    try:
        together.refuse_unstackable(recipe)
        stack([networks.build(recipe, shape, classes)])
    except NotStackableError:
        return 1
    if accelerator == "gpu":
        return MOST
    room = LARGEST // weights
    return min(MOST, room) if room >= LEAST else 1


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
