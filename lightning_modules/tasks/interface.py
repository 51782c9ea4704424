"""What training, evaluation and ensembles ask of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_modules import networks
from lightning_modules.ensembles import Combine
from lightning_modules.losses import Loss

Means = Mapping[str, Tensor]  # of columns over images


class Task(ABC):
    """What networks learn.

    A *prediction* is what a trained network says of an image, in the terms in which it is scored: log-probabilities of
    the classes, a number in the target's own unit, or log-probabilities of the classes at each step.

    Attributes:
        outputs: logits of an image, or of each of its steps.
        each_step: whether the network gives logits at each step.
    """

    MONITORS: ClassVar[dict[str, tuple[str, int]]]
    """By training.monitor the number of an epoch that is monitored, and the sign that makes smaller better."""
    ENSEMBLES: ClassVar[dict[str, Combine]]
    """The ensemble methods: predictions, networks × images × ..., and what was fitted, to images × ...."""
    ORDERS: ClassVar[dict[str, tuple[tuple[str, int], ...]]]
    """By ensemble.select_by the scores that choose, the first one first, with the sign that makes smaller better."""
    SCORES: ClassVar[tuple[str, ...]]
    """The names of what `score` returns."""

    each_step = False

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.outputs = len(card["class_names"])

    def network(self, recipe: dict, shape: list[int]) -> nn.Module:
        """The network of a recipe, see `networks.build`."""
        return networks.build(recipe, shape, self.outputs, each_step=self.each_step)

    @abstractmethod
    def loss(self, given: str | dict, smoothing: float) -> Loss:
        """The loss of a recipe, of logits and labels; see `losses.build`."""

    @abstractmethod
    def predicted(self, given: str | dict, logits: Tensor) -> Tensor:
        """The predictions that logits mean, after a training with the loss `given`."""

    @abstractmethod
    def columns(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Numbers of each image, from whose means over images `scores` follow."""

    @abstractmethod
    def scores(self, means: Means) -> dict[str, Tensor]:
        """Scores from the means of `columns`, which may be means over any set of images."""

    def measured(self, given: str | dict, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The `columns` of a validation batch, from its logits."""
        return self.columns(self.predicted(given, logits), labels)

    def score(self, predictions: Tensor, labels: Tensor) -> dict[str, float]:
        """The scores by which networks and ensembles are compared.

        Args:
            predictions: images × ....
            labels: images × ..., as in the dataset.
        """
        columns = self.columns(predictions.double(), labels)
        means = {name: column.double().mean() for name, column in columns.items()}
        return {name: value.item() for name, value in self.scores(means).items()}
