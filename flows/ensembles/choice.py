"""Chooses among candidates by their validation scores."""

import math
from collections.abc import Mapping, Sequence

NLL_FIRST = (("nll", 1), ("accuracy", -1))


def choose(
    candidates: dict[str, dict[str, float]],
    select_by: str,
    orders: Mapping[str, Sequence[tuple[str, int]]] | None = None,
) -> str:
    """The name of the candidate with the best validation score. Ties go to the better other score, then to the first.

    NaN counts as the worst score. Python compares it as neither smaller nor larger, so a first NaN would win.

    Args:
        candidates: scores by name.
        select_by: "nll" or "accuracy".
        orders: by select_by the scores that choose, the first one first, each with the sign that makes smaller better;
            by default those of classification, see `tasks.interface`.
    """
    order = (orders or {"nll": NLL_FIRST, "accuracy": NLL_FIRST[::-1]})[select_by]

    def badness(name: str) -> tuple[float, ...]:
        values = (sign * candidates[name][score] for score, sign in order)
        return tuple(math.inf if math.isnan(value) else value for value in values)

    return min(candidates, key=badness)
