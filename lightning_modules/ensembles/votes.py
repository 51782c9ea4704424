"""Votes, which fit nothing. Each takes log-probabilities, networks × images × classes, and returns log-probabilities,
images × classes, so that an ensemble is scored like a single network."""

import math

import torch
from torch import Tensor


def soft_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of the networks' mean probability, weighted if `weights` (networks, sum 1) are given."""
    count = len(log_probabilities)
    weights = log_probabilities.new_full((count,), 1 / count) if weights is None else weights
    # A network with weight zero has no say. The log of the smallest float stands in for minus infinity.
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    # By rounding, a sum of probabilities can be above 1.
    return (log_probabilities + logs[:, None, None]).logsumexp(0).clamp_max(0)


def hard_vote(log_probabilities: Tensor) -> Tensor:
    """The log of each class's share of the votes; each network votes for its most probable class.

    One extra vote is spread over all classes, so that no class is impossible (Laplace's rule).
    """
    count, images, classes = log_probabilities.shape
    choices = log_probabilities.argmax(2).T
    # Not one_hot: networks × images × classes of int64 would need more memory than the probabilities.
    votes = choices.new_zeros(images, classes).scatter_add(1, choices, torch.ones_like(choices))
    return untied((votes + 1 / classes) / (count + 1), log_probabilities, 1e-4)


def borda_count(log_probabilities: Tensor) -> Tensor:
    """The log of each class's share of the points; each network gives a class a point for each class below it, and
    half a point for each that it finds as probable.

    One extra network that gives all classes the same keeps each possible. The shares put the classes in order, and are
    far from probabilities: of C classes none gets more than 2 / C.

    Source: de Borda, Mémoire sur les élections au scrutin, 1781.
    """
    count, _, classes = log_probabilities.shape
    points = []
    for number in range(classes):
        own = log_probabilities[:, :, number, None]
        # As many below as above are half of those that are equal.
        points.append(((own > log_probabilities).sum((0, 2)) - (own < log_probabilities).sum((0, 2))) / 2)
    each = (classes - 1) / 2  # points a class, on average
    all_points = (count + 1) * classes * each
    return untied((torch.stack(points, 1) + (count + 1) * each) / all_points, log_probabilities, 0.1 / all_points)


def geometric_mean(log_probabilities: Tensor) -> Tensor:
    """The networks' mean log-probability, normalised: a logarithmic opinion pool, in which each network has a veto.

    Source: Genest and Zidek, Combining Probability Distributions: A Critique and an Annotated Bibliography, 1986.
    """
    # A probability of 0 counts as the smallest float, or one network's certainty would outweigh all others'.
    least = math.log(torch.finfo(log_probabilities.dtype).tiny)
    return log_probabilities.clamp_min(least).mean(0).log_softmax(1)


def untied(shares: Tensor, log_probabilities: Tensor, weight: float) -> Tensor:
    """The log of the shares, whose ties are broken by the soft vote. Its weight has to be too little to outweigh a vote
    or point, and enough to be seen in single precision."""
    return ((shares + weight * soft_vote(log_probabilities).exp()) / (1 + weight)).log().clamp_max(0)
