"""Divides replicas into portions that train in one process, and their epochs into turns."""

import math
from pathlib import Path

from flows.training import kept_results

# The most replicas in one stack. Replicas come in as few stacks of nearly equal size as this allows. The number of
# cores plays no part, because the size of a stack changes how its sums are rounded.
LARGEST_STACK = {"cpu": 4, "gpu": 32}
# A turn costs a tenth of a second, to build the network and load its checkpoint. With eight of them no worker is idle
# for more than an eighth of a training at the end.
MOST_TURNS = 8


def portions(replicas: int, settings: dict) -> list[list[int]]:
    """The replicas' numbers by portion, what one worker trains at once: single replicas, or stacks."""
    largest = LARGEST_STACK[settings["accelerator"]] if settings["parallel"] == "stacked" else 1
    stacks = -(-replicas // largest)
    return [list(range(first, replicas, stacks)) for first in range(stacks)]


def unfinished_portions(card: dict, replicas: int, work: Path) -> list[list[int]]:
    """The portions that are left to train. A stack without all of its results is trained as a whole, from its
    checkpoint."""
    return [
        numbers
        for numbers in portions(replicas, card["settings"])
        if not all(kept_results.is_finished(work, number) for number in numbers)
    ]


def turns(portions: int, jobs: int, epochs: int) -> int:
    """The number of turns in which each portion is trained; a turn is a whole number of epochs, equal but for the last.

    Turns leave fewer workers idle at the end: two workers take the time of three trainings for five portions of one
    turn each, and of two and a half with two turns each.
    """
    if portions <= jobs:
        return 1
    wanted = min(jobs // math.gcd(portions, jobs), MOST_TURNS, epochs)
    return math.ceil(epochs / math.ceil(epochs / wanted))
