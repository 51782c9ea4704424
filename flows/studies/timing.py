"""How long a variant's networks train.

Networks of a stack train as one computation, so that none has seconds of its own. Instead one network of each variant
trains some epochs alone, and each training counts as many seconds an epoch.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flows.studies.specification import Study
from lightning_modules.fit import fit

EPOCHS = 3


def epoch_seconds(recipe: dict, seed: int, training: tuple, validation: tuple, given: Mapping[str, Any]) -> float:
    """The seconds of an epoch, with its validation, of one network that trains alone; NaN where it diverges at once.

    Args:
        given: settings of `fit`.
    """
    ends = [time.perf_counter()]
    alone = dict(given) | {
        "epochs": EPOCHS,
        "early_stopping": None,
        "checkpoint": None,
        "report": lambda event: ends.append(time.perf_counter()) if "row" in event else None,
        "note_divergence": True,
    }
    fit(recipe, training, validation, seed=seed, **alone)
    # Not the first one, which begins with what Lightning sets up.
    return min((end - start for start, end in itertools.pairwise(ends[1:])), default=math.nan)


def timed(rows: Sequence[dict], study: Study) -> list[dict]:
    """The rows with steps, seconds, steps_to_target and seconds_to_target: of the whole training, and of the epochs
    until validation accuracy first reaches the target, which are infinite where it does not."""
    alone = {row["variant"]: row["epoch_seconds"] for row in rows if "epoch_seconds" in row}
    found = []
    for row in rows:
        seconds = alone.get(row["variant"], math.nan) * row["networks"]
        reached = next((one["epoch"] for one in row["curve"] if one["validation_accuracy"] >= study.target), math.inf)
        found.append(
            row
            | {
                "steps": row["epochs"] * row["steps_an_epoch"],
                "seconds": row["epochs"] * seconds,
                "steps_to_target": reached * row["steps_an_epoch"],
                "seconds_to_target": math.inf if reached == math.inf else reached * seconds,
            }
        )
    return found
