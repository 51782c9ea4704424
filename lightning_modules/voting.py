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


VOTES = {"soft_vote": soft_vote, "hard_vote": hard_vote, "weighted_vote": weighted_vote}


GAP = 1e-6  # nats: how far the likelihood of fitted weights may be from the best one
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
        One weight per network, float32, not negative, sum 1.
    """
    logs = log_probabilities[:, torch.arange(len(labels)), labels].double()
    # A factor per image changes no weight. An image that all networks find impossible says nothing about them.
    largest = logs.max(0).values
    likelihoods = (logs - largest)[:, largest > -torch.inf].exp()
    count, images = likelihoods.shape
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    if images == 0 or count == 1:
        return weights.float()
    # Minimised is -mean(log(mixture)) + sum(weights) for weights of any sum: at the best ones it is 1.
    slack = torch.ones_like(weights)  # of the bound 0 of each weight
    best, smallest = weights, torch.inf
    for _ in range(MOST_STEPS):
        ratios = likelihoods / (weights @ likelihoods)
        gradient = ratios.mean(1)
        gap = (gradient.max() * weights.sum() - 1).item()
        if gap < smallest:
            best, smallest = weights / weights.sum(), gap
        if gap < GAP:
            break
        target = 0.1 * (weights @ slack) / count
        curvature = ratios @ ratios.T / images + torch.diag(slack / weights)
        step = torch.linalg.solve(curvature, gradient - 1 + target / weights)
        slack_step = target / weights - slack - slack / weights * step
        # Nearly to the bounds at most.
        length = min(1.0, 0.99 * room(weights, step), 0.99 * room(slack, slack_step))
        weights, slack = weights + length * step, slack + length * slack_step
    return best.float()


def room(values: Tensor, step: Tensor) -> float:
    """How many steps lead to the first zero."""
    falling = step < 0
    return (values[falling] / -step[falling]).min().item() if falling.any() else torch.inf


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
