"""One number for each image."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules import names
from lightning_modules.errors import InputError
from lightning_modules.losses import Loss
from lightning_modules.tasks.interface import Means, Task


def mse(errors: Tensor) -> Tensor:
    return errors.square()


def mae(errors: Tensor) -> Tensor:
    return errors.abs()


# Of errors in standard deviations of the target.
LOSSES = {"mae": mae, "mse": mse}


def mean(predictions: Tensor, weights: Tensor | None = None) -> Tensor:
    """The networks' mean prediction, weighted if `weights` (networks, sum 1) are given."""
    count = len(predictions)
    weights = predictions.new_full((count,), 1 / count) if weights is None else weights
    return (weights[:, None, None] * predictions).sum(0)


class Regression(Task):
    """Labels: float32, one an image. Predictions: images × 1, in the target's own unit.

    Networks learn the target less its mean and divided by its standard deviation, both of the training images.

    Args:
        card: its `target` has mean and std; of a constant target std is 0, and taken for 1.
    """

    # An epoch's mean squared error is, up to a factor and a constant, the nll of a normal distribution around it.
    MONITORS: ClassVar = {"nll": ("validation_mse", 1)}
    ENSEMBLES: ClassVar = {"soft_vote": mean, "weighted_vote": mean}
    ORDERS: ClassVar = {"nll": (("mse", 1), ("mae", 1))}
    SCORES = ("mse", "mae", "r2")

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.outputs = 1
        self.centre, self.spread = float(card["target"]["mean"]), float(card["target"]["std"]) or 1.0

    def loss(self, given: str | dict, smoothing: float) -> Loss:
        name = names.name_of(given)
        if name not in LOSSES:
            fitting = " or ".join(names.TASKS["regression"])
            raise InputError(f"loss {name} does not fit task regression: it takes {fitting}")
        kind = LOSSES[name]
        return lambda logits, labels, smoothing=0.0: kind(logits[..., 0] - self.standardized(labels))

    def standardized(self, labels: Tensor) -> Tensor:
        return (labels - self.centre) / self.spread

    def predicted(self, given: str | dict, logits: Tensor) -> Tensor:
        return logits * self.spread + self.centre

    def columns(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        errors = predictions[..., 0] - labels
        # Standardized, so that the square of the mean is small against the mean of the squares.
        truth = self.standardized(labels.to(errors.dtype))
        return {"squared": errors.square(), "absolute": errors.abs(), "truth": truth, "truth_squared": truth.square()}

    def scores(self, means: Means) -> dict[str, Tensor]:
        """mse, mae in the target's own unit, squared and as it is; r2, the share of the target's variance that is
        explained: 1 at best, 0 for its mean, below for worse, NaN where the target is constant."""
        variance = (means["truth_squared"] - means["truth"] ** 2) * self.spread**2
        unexplained = means["squared"] / variance.where(variance > 0, torch.nan)
        return {"mse": means["squared"], "mae": means["absolute"], "r2": 1 - unexplained}
