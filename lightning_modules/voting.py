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
    count, _, classes = log_probabilities.shape
    votes = nn.functional.one_hot(log_probabilities.argmax(2), classes).sum(0)
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
    likelihoods = log_probabilities.double()[:, torch.arange(len(labels)), labels].exp()
    weights = torch.full((len(likelihoods),), 1 / len(likelihoods), dtype=torch.float64)
    for _ in range(steps):
        joint = weights[:, None] * likelihoods
        share = joint / joint.sum(0).clamp_min(torch.finfo(joint.dtype).tiny)
        weights = share.mean(1) / share.mean(1).sum()
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


class Ensemble(nn.Module):
    """Networks that vote: uint8 images N×H×W×C in, log-probabilities N×classes out.

    Args:
        networks: each of the same kind, see `weights.Predictor`.
        method: a name of VOTES; `vote_weights` are those of the weighted vote.
    """

    def __init__(self, networks: list[nn.Module], method: str, vote_weights: Tensor | None = None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.method = method
        self.register_buffer("vote_weights", vote_weights)

    def forward(self, images: Tensor) -> Tensor:
        stacked = torch.stack([network(images) for network in self.networks])
        return VOTES[self.method](stacked, self.vote_weights)
