"""Ways to combine networks. Each takes log-probabilities, networks × images × classes, and gives log-probabilities,
images × classes, so that an ensemble is scored as a single network is."""

import torch
from torch import Tensor, nn


def soft_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of the networks' mean probability, weighted where `weights` (networks, sum 1) are given."""
    count = len(log_probabilities)
    weights = log_probabilities.new_full((count,), 1 / count) if weights is None else weights
    # A weight of zero is a network without a say: the log of the smallest number stands in for minus infinity.
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return (log_probabilities + logs[:, None, None]).logsumexp(0)


def hard_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of each class's share of the networks' first choices, with one vote more, spread over all classes,
    so that no class is impossible (Laplace's rule). Equal shares are told apart by the soft vote, by a ten-thousandth:
    too little to outweigh a vote, and enough to be seen in single precision."""
    count, images, classes = log_probabilities.shape
    choices = log_probabilities.argmax(2).T
    # Not one_hot: a class of each network and image would need more memory than the probabilities.
    votes = choices.new_zeros(images, classes).scatter_add(1, choices, torch.ones_like(choices))
    shares = (votes + 1 / classes) / (count + 1)
    shares = (shares + 1e-4 * soft_vote(log_probabilities).exp()) / (1 + 1e-4)
    return shares.log()


def weighted_vote(log_probabilities: Tensor, weights: Tensor) -> Tensor:
    """The soft vote with the weights that `fit_weights` found."""
    return soft_vote(log_probabilities, weights)


VOTES = {"soft_vote": soft_vote, "hard_vote": hard_vote, "weighted_vote": weighted_vote}


def fit_weights(log_probabilities: Tensor, labels: Tensor, steps: int = 500) -> Tensor:
    """The weights of the mixture of networks with the smallest negative log-likelihood, which is convex in them.

    Source: Smyth and Wolpert, Linearly Combining Density Estimators via Stacking, 1999 (expectation maximisation).

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One weight per network, not negative, sum 1.
    """
    likelihoods = log_probabilities[:, torch.arange(len(labels)), labels].double().exp()
    weights = torch.full((len(likelihoods),), 1 / len(likelihoods), dtype=torch.float64)
    for _ in range(steps):
        # Each network's share of the mixture's likelihood, summed over the images. As two products: the shares of
        # each image would take as much memory as the likelihoods, several times.
        mixture = weights @ likelihoods
        # An image that all networks find impossible says nothing about them.
        possible = mixture > torch.finfo(mixture.dtype).tiny
        share = weights * (likelihoods @ torch.where(possible, mixture.reciprocal(), 0.0))
        weights = share / share.sum()
    return weights.float()


def cross_fitted_vote(log_probabilities: Tensor, labels: Tensor, folds: int = 5) -> Tensor:
    """The weighted vote on images whose labels its weights were not fitted to: each fold is voted on with the weights
    of the others. Only so can it be compared on these images with votes that fit nothing.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.
    """
    fold = torch.arange(len(labels)) % folds
    result = torch.empty_like(log_probabilities[0])
    for number in range(folds):
        inside = fold == number
        weights = fit_weights(log_probabilities[:, ~inside], labels[~inside])
        result[inside] = weighted_vote(log_probabilities[:, inside], weights)
    return result


class Vote(nn.Module):
    """A way to combine networks, as a module: log-probabilities networks × images × classes in, images × classes out.

    Args:
        method: a name of VOTES; `weights` are those of the weighted vote.
    """

    def __init__(self, method: str, weights: Tensor | None = None) -> None:
        super().__init__()
        self.method = method
        self.register_buffer("weights", weights)

    def forward(self, log_probabilities: Tensor) -> Tensor:
        return VOTES[self.method](log_probabilities, self.weights)
