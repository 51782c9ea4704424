"""Ways to combine networks. Each takes log-probabilities, networks × images × classes, and gives log-probabilities,
images × classes, so that an ensemble is scored as a single network is."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def soft_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of the networks' mean probability, weighted where `weights` (networks, sum 1) are given."""
    count = len(log_probabilities)
    weights = log_probabilities.new_full((count,), 1 / count) if weights is None else weights
    # A weight of zero is a network without a say: the log of the smallest number stands in for minus infinity.
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    # Rounded, a sum of probabilities ends above 1.
    return (log_probabilities + logs[:, None, None]).logsumexp(0).clamp_max(0)


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
    return shares.log().clamp_max(0)


def weighted_vote(log_probabilities: Tensor, weights: Tensor) -> Tensor:
    """The soft vote with the weights that `fit_weights` found."""
    return soft_vote(log_probabilities, weights)


VOTES: dict[str, Callable[..., Tensor]] = {
    "soft_vote": soft_vote,
    "hard_vote": hard_vote,
    "weighted_vote": weighted_vote,
}

# How far the mean log-likelihood of fitted weights may be from the largest one, in nats. In single precision, as
# weights are kept, 1e-7 may come on top.
GAP = 1e-8
MOST_STEPS = 100  # a dozen are enough


def fit_weights(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The weights of the mixture of networks with the smallest negative log-likelihood, which is convex in them.

    The mixture is Smyth and Wolpert's, Linearly Combining Density Estimators via Stacking, 1999. Its weights are found
    by a primal-dual interior-point method (Nocedal and Wright, Numerical Optimization, 2006, chapter 19) instead of
    expectation maximisation, which takes hundreds of thousands of steps where networks are alike. It ends when the
    duality gap, max_k mean(likelihood_k / mixture) - 1, says that no weights are better by more than GAP.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One weight per network, float32, not negative, sum 1; NaN where a prediction is.
    """
    logs = log_probabilities[:, torch.arange(len(labels)), labels].double()
    count = len(logs)
    if logs.isnan().any():
        return torch.full((count,), torch.nan)
    best = logs.max(0).values
    possible = best > -torch.inf  # an image that all networks find impossible says nothing about them
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    if not possible.any():
        return weights.float()
    # Of each image, in units of the best network's: the unit does not change which weights are best.
    likelihoods = (logs[:, possible] - best[possible]).exp()
    slack = None
    for _ in range(MOST_STEPS):
        relative = likelihoods / (weights @ likelihoods)
        excess = relative.mean(1) - 1  # of a network's mean likelihood over the mixture's; at the end none is above 0
        gap = excess.max()
        if gap < GAP:
            break
        slack = (-excess).clamp_min(0) + gap if slack is None else slack
        aim = 0.1 * (weights @ slack) / count  # of each product of weight and slack
        step = newton(relative, slack / weights, excess + aim / weights)
        slack_step = (aim - slack * step) / weights - slack
        weights = weights + reach(weights, step) * step
        slack = slack + reach(slack, slack_step) * slack_step
        weights = weights / weights.sum()
    return weights.float()


def newton(relative: Tensor, diagonal: Tensor, target: Tensor) -> Tensor:
    """The x of (relative · relativeᵀ / images + diagonal) x = target, by the smaller one of two systems: as large as
    the networks are many, or, by Woodbury's identity, as the images are.

    Args:
        relative: networks × images.
        diagonal, target: networks.
    """
    count, images = relative.shape
    if count <= images:
        system = relative @ relative.T / images
        system.diagonal().add_(diagonal)
        return torch.linalg.solve(system, target)
    alone = target / diagonal
    system = relative.T @ (relative / diagonal[:, None])
    system.diagonal().add_(images)
    return alone - relative @ torch.linalg.solve(system, relative.T @ alone) / diagonal


def reach(values: Tensor, step: Tensor) -> Tensor:
    """The share of a step that leaves positive values positive."""
    return 0.99 / (-step / values).max().clamp_min(0.99)


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
