"""One number for each image."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules import names
from lightning_modules.errors import InputError
from lightning_modules.losses import Loss
from lightning_modules.tasks.interface import Means, Task

MOST_STEPS = 20_000
GAP = 1e-9  # of the mean squared error, relative to that of equal weights


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
    VOTES: ClassVar = {"soft_vote": mean, "weighted_vote": mean}
    ORDERS: ClassVar = {"nll": (("mse", 1), ("mae", 1))}
    SCORES = ("mse", "mae", "r2")

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.outputs = 1
        self.centre, self.spread = float(card["target"]["mean"]), float(card["target"]["std"]) or 1.0

    def loss(self, given: str | dict, smoothing: float) -> Loss:
        name = names.name_of(given)
        if name not in LOSSES:
            raise InputError(
                f"loss {name} does not fit task regression: it takes {' or '.join(names.TASKS['regression'])}"
            )
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

    def fit_weights(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return fit_weights(predictions[..., 0], labels)


def fit_weights(predictions: Tensor, labels: Tensor) -> Tensor:
    """The weights, not negative and of sum 1, whose weighted mean has the least squared error: a convex problem.

    Source: Breiman, Stacked Regressions, 1996, who also keeps the weights from being negative. Found by the projected
    gradient method with Nesterov's momentum, which ends when the duality gap shows that no weights are better by more
    than a billionth of the error of equal weights.

    Args:
        predictions: networks × images.
        labels: images.

    Returns:
        float32, one per network; all NaN if a prediction is.
    """
    errors = predictions.double() - labels.double()
    count = len(errors)
    products = errors @ errors.T / errors.shape[1]  # as weights sum to 1, weights · products · weights is their error
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    if products.isnan().any():
        return torch.full((count,), torch.nan)
    steepest = torch.linalg.eigvalsh(products)[-1].item()
    allowed = GAP * (weights @ products @ weights).item()
    if not steepest > 0:
        return weights.float()
    ahead, momentum = weights, 1.0
    for _ in range(MOST_STEPS):
        slope = products @ weights
        if 2 * (weights @ slope - slope.min()).item() <= allowed:
            break
        new = onto_simplex(ahead - products @ ahead / steepest)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        weights, momentum = new, following
    return weights.float()


def onto_simplex(point: Tensor) -> Tensor:
    """The nearest point whose coordinates are not negative and sum to 1.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra, Efficient Projections onto the l1-Ball for Learning in High
    Dimensions, 2008.
    """
    largest = point.sort(descending=True).values
    excess = (largest.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype)
    return (point - excess[(largest > excess).nonzero()[-1]]).clamp_min(0)
