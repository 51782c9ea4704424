"""One class for each image."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lightning_modules import losses, scores
from lightning_modules.ensembles import COMBINED
from lightning_modules.losses import Loss
from lightning_modules.tasks.interface import Means, Task


class Classification(Task):
    """Labels: int64, one an image. Predictions: log-probabilities, images × classes."""

    MONITORS: ClassVar = {"nll": ("validation_nll", 1), "accuracy": ("validation_accuracy", -1)}
    ENSEMBLES: ClassVar = COMBINED
    ORDERS: ClassVar = {"nll": (("nll", 1), ("accuracy", -1)), "accuracy": (("accuracy", -1), ("nll", 1))}
    SCORES = ("accuracy", "nll", "brier", "ece")

    def loss(self, given: str | dict, smoothing: float) -> Loss:
        return losses.build(given, smoothing)

    def predicted(self, given: str | dict, logits: Tensor) -> Tensor:
        return losses.log_probabilities(given, logits)

    def columns(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nll = F.nll_loss(predictions.flatten(0, -2), labels.flatten(), reduction="none")
        return {"nll": nll.view(labels.shape), "accuracy": predictions.argmax(-1) == labels}

    def measured(self, given: str | dict, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        # The hits by the logits: two that differ by little may be one log-probability.
        return self.columns(self.predicted(given, logits), labels) | {"accuracy": logits.argmax(-1) == labels}

    def scores(self, means: Means) -> dict[str, Tensor]:
        return dict(means)

    def score(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        return scores.score(predictions, labels)
