"""Which replicas train in one process, and in how many turns."""

import math
from pathlib import Path

from flows.training import kept_results

# The most replicas in one stack. Also fewer of them come in as few stacks of equal size as this allows, whatever
# the number of cores: how many there are in a stack changes how its sums are rounded.
LARGEST_STACK = {"cpu": 4, "gpu": 32}
# Each turn builds its network anew and loads its checkpoint: a tenth of a second, for an eighth of a training saved.
MOST_TURNS = 8


def portions(replicas: int, settings: dict) -> list[list[int]]:
    """What a worker trains at once: single replicas, or stacks of nearly equal size."""
    largest = LARGEST_STACK[settings["accelerator"]] if settings["parallel"] == "stacked" else 1
    stacks = -(-replicas // largest)
    return [list(range(first, replicas, stacks)) for first in range(stacks)]


def unfinished_portions(card: dict, replicas: int, work: Path) -> list[list[int]]:
    """Of a stack whose results are not all there, each is made again, from the stack's own checkpoint."""
    return [
        numbers
        for numbers in portions(replicas, card["settings"])
        if not all(kept_results.is_finished(work, number) for number in numbers)
    ]


def turns(portions: int, jobs: int, epochs: int) -> int:
    """In how many turns, of equally many whole epochs but for the last, a portion is trained. Five portions in one turn
    keep two workers busy for three trainings, the last of which has one idle; in two turns each, for two and a half."""
    if portions <= jobs:
        return 1
    wanted = min(jobs // math.gcd(portions, jobs), MOST_TURNS, epochs)
    return math.ceil(epochs / math.ceil(epochs / wanted))
