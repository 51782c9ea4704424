"""Loss functions by name."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from lightning_modules import names


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative log-likelihood of the softmax, in nats."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
}


def build(given: str | dict) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a recipe: of logits, ... × classes (float32), and labels, ... (int64), to the loss of each image, ...

    Args:
        given: a recipe's `loss`: a name, or a mapping with its hyper-parameters.
    """
    settings = names.completed(given, names.LOSSES)
    return partial(LOSSES[settings.pop("name")], **settings)
