"""Loss functions by name, and what each makes of logits when the network predicts."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import names
from lightning_modules.errors import InputError

# Of logits, ... × classes (float32), labels, ... (int64), and label smoothing, a number or a tensor that broadcasts to
# the labels, to the loss of each image, ...
Loss = Callable[..., Tensor]


def target_distribution(labels: Tensor, classes: int, smoothing: float | Tensor = 0.0) -> Tensor:
    """The probability that the target gives each class, ... × classes: 1 to the label, of which `smoothing` is spread
    evenly over all classes (Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016)."""
    share = smoothing[..., None] if isinstance(smoothing, Tensor) else smoothing
    return one_hot(labels, classes) * (1 - share) + share / classes


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """0 and 1 (float32), ... × classes. torch's own reads the labels back from a GPU to check them."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).float()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """The negative log-likelihood of the softmax, in nats."""
    if across_images(logits):
        log_probabilities = logits.mT.log_softmax(-2)
        nll, mean = F.nll_loss(log_probabilities, labels, reduction="none"), -2
    else:
        log_probabilities = logits.log_softmax(-1)
        # Not gather: its deterministic gradient on a GPU has to sort.
        nll = F.nll_loss(log_probabilities.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        mean = -1
    if isinstance(smoothing, float) and not smoothing:
        return nll
    return (1 - smoothing) * nll - smoothing * log_probabilities.mean(mean)


def across_images(logits: Tensor) -> bool:
    """Whether a softmax is made across the images, with their classes in the dimension before: of stacked networks on a
    CPU, where torch's own for a last dimension as short as the classes takes ten times as long."""
    return logits.dim() == 3 and logits.device.type == "cpu"


def categorical_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy with the target distribution written out. The same numbers as `cross_entropy`, which needs none."""
    return -(target_distribution(labels, logits.shape[-1], smoothing) * logits.log_softmax(-1)).sum(-1)


def binary_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """One class against all others: each logit's sigmoid is the probability of its class alone. The mean over the
    classes of their cross-entropies, in nats. Data of two classes have two logits as well."""
    targets = target_distribution(labels, logits.shape[-1], smoothing).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def mse(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """The squared error between the softmax's probabilities and the target distribution, its mean over the classes."""
    return (logits.softmax(-1) - target_distribution(labels, logits.shape[-1], smoothing)).square().mean(-1)


def mae(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """The absolute error between the softmax's probabilities and the target distribution, its mean over the classes."""
    return (logits.softmax(-1) - target_distribution(labels, logits.shape[-1], smoothing)).abs().mean(-1)


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is from being larger than every other one by 1.

    Source: Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, 2001.
    """
    truth = one_hot(labels, logits.shape[-1])
    rival = logits.masked_fill(truth.bool(), -torch.inf).amax(-1)
    return (1 + rival - (logits * truth).sum(-1)).clamp_min(0)


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """The cross-entropy times (1 - p)^gamma, p the label's probability by the softmax: images that are learnt already
    count less.

    Source: Lin, Goyal, Girshick, He and Dollár, Focal Loss for Dense Object Detection, 2017, without its weights of
    classes.

    Args:
        gamma: 0 or more. With 0 it is the cross-entropy.
    """
    nll = cross_entropy(logits, labels)
    # Below a gamma of 1 the power has no finite derivative at 0.
    missing = -torch.expm1(-nll)
    return missing.clamp_min(torch.finfo(missing.dtype).tiny) ** gamma * nll


LOSSES: dict[str, Callable[..., Tensor]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "categorical_cross_entropy": categorical_cross_entropy,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "hinge": hinge,
    "mae": mae,
    "mse": mse,
}


def build(given: str | dict, smoothing: float = 0.0) -> Loss:
    """The loss of a recipe.

    Args:
        given: a recipe's `loss`: a name, or a mapping with its hyper-parameters.
        smoothing: the largest label smoothing that it will be called with.

    Raises:
        InputError: the loss has no target distribution that could be smoothed, or is none of classes.
    """
    settings = names.completed(given, names.LOSSES)
    name = settings.pop("name")
    if name not in LOSSES:
        raise InputError(f"loss {name} does not fit task classification: it takes {' or '.join(sorted(LOSSES))}")
    loss = partial(LOSSES[name], **settings)
    if name in names.SMOOTHED:
        return loss
    if smoothing:
        raise InputError(f"loss {name} has no target distribution for label smoothing: {', '.join(names.SMOOTHED)} do")
    return lambda logits, labels, smoothing=0.0: loss(logits, labels)


def log_probabilities(given: str | dict, logits: Tensor) -> Tensor:
    """The log-probabilities, ... × classes, that a network which was trained with the loss predicts.

    Of the softmax; after binary_cross_entropy of the sigmoids, divided by their sum.
    """
    if names.name_of(given) == "binary_cross_entropy":
        logits = F.logsigmoid(logits)
    return logits.mT.log_softmax(-2).mT if across_images(logits) else logits.log_softmax(-1)
