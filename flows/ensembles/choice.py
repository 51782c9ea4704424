"""Chooses among candidates by their validation scores."""

import math


def choose(candidates: dict[str, dict[str, float]], select_by: str) -> str:
    """The name of the candidate with the best validation score. Ties go to the better other score, then to the first.

    NaN counts as the worst score. Python compares it as neither smaller nor larger, so a first NaN would win.

    Args:
        candidates: nll and accuracy by name.
        select_by: "nll" or "accuracy".
    """

    def badness(name: str) -> tuple[float, ...]:
        numbers = candidates[name]
        both = tuple(math.inf if math.isnan(value) else value for value in (numbers["nll"], -numbers["accuracy"]))
        return both if select_by == "nll" else both[::-1]

    return min(candidates, key=badness)
