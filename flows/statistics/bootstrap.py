"""Confidence intervals of scores that follow from means over images, by the bootstrap."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

RESAMPLES = 2000
AT_A_TIME = 100  # resamples, which take images × resamples numbers of memory
SEED = 0


def intervals(
    columns: Mapping[str, "Tensor"],
    scores: Callable[[dict[str, "Tensor"]], Mapping[str, "Tensor"]],
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """The percentile intervals of scores: how much other test images would change them. The same for the same numbers.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        columns: numbers of each image.
        scores: from the means of the columns over images.

    Returns:
        By score the ends of its interval, two NaN where one of its values is.
    """
    import numpy as np
    import torch

    generator, names = np.random.default_rng(SEED), list(columns)
    values = torch.stack([columns[name].double() for name in names])
    count = values.shape[1]
    found = []
    for first in range(0, RESAMPLES, AT_A_TIME):
        times = generator.multinomial(count, np.full(count, 1 / count), size=min(AT_A_TIME, RESAMPLES - first))
        found.append(values @ torch.from_numpy(times).double().T / count)
    resampled = scores(dict(zip(names, torch.cat(found, 1))))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return {name: tuple(torch.quantile(values, ends).tolist()) for name, values in resampled.items()}
