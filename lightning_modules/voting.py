"""Ensemble methods. Each takes log-probabilities, networks × images × classes, and returns log-probabilities, images ×
classes, so that an ensemble is scored like a single network."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def soft_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of the networks' mean probability, weighted if `weights` (networks, sum 1) are given."""
    count = len(log_probabilities)
    weights = log_probabilities.new_full((count,), 1 / count) if weights is None else weights
    # A network with weight zero has no say. The log of the smallest float stands in for minus infinity.
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    # By rounding, a sum of probabilities can be above 1.
    return (log_probabilities + logs[:, None, None]).logsumexp(0).clamp_max(0)


def hard_vote(log_probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of each class's share of the votes; each network votes for its most probable class.

    One extra vote is spread over all classes, so that no class is impossible (Laplace's rule). Ties are broken by the
    soft vote, with a weight of a ten-thousandth: too little to outweigh a vote, enough to be seen in single precision.
    """
    count, images, classes = log_probabilities.shape
    choices = log_probabilities.argmax(2).T
    # Not one_hot: networks × images × classes of int64 would need more memory than the probabilities.
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

# Largest gap, in nats, between the mean log-likelihood of the fitted weights and the optimum. Weights are kept in
# single precision, which may add 1e-7.
GAP = 1e-8
MOST_STEPS = 100  # a dozen are enough


def fit_weights(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The weights of the networks' mixture that minimise its negative log-likelihood, a convex problem.

    The mixture is Smyth and Wolpert's, Linearly Combining Density Estimators via Stacking, 1999. Its weights are found
    by a primal-dual interior-point method (Nocedal and Wright, Numerical Optimization, 2006, chapter 19).
    Expectation maximisation would take hundreds of thousands of steps if the networks are alike. The method ends when
    the duality gap, max_k mean(likelihood_k / mixture) - 1, shows that no weights are better by more than GAP.

    Args:
        log_probabilities: networks × images × classes.
        labels: images.

    Returns:
        One weight per network, float32, not negative, sum 1; all NaN if the probability of a label is NaN.
    """
    logs = log_probabilities[:, torch.arange(len(labels)), labels].double()
    count = len(logs)
    if logs.isnan().any():
        return torch.full((count,), torch.nan)
    best = logs.max(0).values
    possible = best > -torch.inf  # an image to whose label all networks give probability 0 says nothing about them
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    if not possible.any():
        return weights.float()
    # Each image's likelihoods are relative to its best network's, which does not change the best weights.
    likelihoods = (logs[:, possible] - best[possible]).exp()
    slack = None
    for _ in range(MOST_STEPS):
        relative = likelihoods / (weights @ likelihoods)
        excess = relative.mean(1) - 1  # mean of the likelihood relative to the mixture's, less 1; at the optimum <= 0
        gap = excess.max()
        if gap < GAP:
            break
        slack = (-excess).clamp_min(0) + gap if slack is None else slack
        aim = 0.1 * (weights @ slack) / count  # for each product of weight and slack
        step = newton(relative, slack / weights, excess + aim / weights)
        slack_step = (aim - slack * step) / weights - slack
        weights = weights + reach(weights, step) * step
        slack = slack + reach(slack, slack_step) * slack_step
        weights = weights / weights.sum()
    return weights.float()


def newton(relative: Tensor, diagonal: Tensor, target: Tensor) -> Tensor:
    """Solves (relative · relativeᵀ / images + diag(diagonal)) x = target for x.

    The system that is solved is networks × networks or, by Woodbury's identity, images × images, whichever is smaller.

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
    """The largest share of a step, at most 1 and with a margin of 1 %, that keeps positive values positive."""
    return 0.99 / (-step / values).max().clamp_min(0.99)


def cross_fitted_vote(
    log_probabilities: Tensor,
    labels: Tensor,
    folds: int = 5,
    fit: Callable[[Tensor, Tensor], Tensor] = fit_weights,
    vote: Callable[[Tensor, Tensor], Tensor] = weighted_vote,
) -> Tensor:
    """The cross-fitted weighted vote: each fold of images is voted on with weights fitted to the other folds.

    So no weight was fitted to the label of an image that it votes on, which makes the vote comparable, on these images,
    with votes that fit nothing.

    Args:
        log_probabilities: networks × images × classes, or what else `fit` and `vote` take.
        labels: images.
        fit: the weights from predictions and labels; `vote`: a prediction from predictions and weights.
    """
    fold = torch.arange(len(labels)) % folds
    result = torch.empty_like(log_probabilities[0])
    for number in range(folds):
        inside = fold == number
        weights = fit(log_probabilities[:, ~inside], labels[~inside])
        result[inside] = vote(log_probabilities[:, inside], weights)
    return result


class Vote(nn.Module):
    """An ensemble method as a module: log-probabilities networks × images × classes in, images × classes out.

    Args:
        method: a key of VOTES.
        weights: of the weighted vote, one per network.
        votes: the ensemble methods of another task.
    """

    def __init__(
        self, method: str, weights: Tensor | None = None, votes: dict[str, Callable[..., Tensor]] = VOTES
    ) -> None:
        super().__init__()
        self.combine = votes[method]
        self.register_buffer("weights", weights)

    def forward(self, log_probabilities: Tensor) -> Tensor:
        return self.combine(log_probabilities, self.weights)
