"""The choice among candidates, on validation."""

import math


def choose(candidates: dict[str, dict[str, float]], select_by: str) -> str:
    """The name with the best validation score; the other score decides between equals, then the first one wins.
    A NaN is the worst score: it is neither smaller nor larger than another, and would stay where it comes first."""

    def badness(name: str) -> tuple[float, ...]:
        numbers = candidates[name]
        both = tuple(math.inf if math.isnan(value) else value for value in (numbers["nll"], -numbers["accuracy"]))
        return both if select_by == "nll" else both[::-1]

    return min(candidates, key=badness)
