"""Scores of a classifier, be it a single network or an ensemble.

All are computed from log-probabilities. A single NaN among them makes every score NaN: a classifier that gives no
answer for an image has no accuracy either.
"""

import math

import torch
from torch import Tensor

BINS = 15  # of confidence, for the expected calibration error
TOP = 5  # classes among which a label counts as found, for top_5


def score(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores by which classifiers are compared.

    Args:
        log_probabilities: images × classes.
        labels: images, int64.

    Returns:
        accuracy (0 to 1); nll, the mean negative log-likelihood in nats; brier, the mean squared distance between
        probabilities and truth, summed over classes (0 to 2: Brier, 1950); ece, the expected calibration error
        (0 to 1: Naeini et al., 2015), over the bins of `reliability`; and where there are more than five classes top_5,
        the share of images whose label is among the five most probable ones (0 to 1).
    """
    asks = log_probabilities.shape[1] > TOP
    if log_probabilities.isnan().any():
        return dict.fromkeys(("accuracy", "nll", "brier", "ece", *(("top_5",) if asks else ())), math.nan)
    probabilities = log_probabilities.exp().double()
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    rows = reliability(log_probabilities, labels)
    return {
        "accuracy": (log_probabilities.argmax(1) == labels).double().mean().item(),
        "nll": torch.nn.functional.nll_loss(log_probabilities.double(), labels).item(),
        "brier": (probabilities - truth).square().sum(1).mean().item(),
        "ece": sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(labels),
        **({"top_5": top_k(log_probabilities, labels, TOP)} if asks else {}),
    }


def per_class(log_probabilities: Tensor, labels: Tensor, class_names: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each class (0 to 1); 0 if the class is never predicted or does not occur."""
    counts = torch.tensor(confusion(log_probabilities, labels)).double()
    right, actual, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    measures = {
        "precision": right / predicted.clamp_min(1),
        "recall": right / actual.clamp_min(1),
        "f1": 2 * right / (actual + predicted).clamp_min(1),
    }
    if log_probabilities.isnan().any():
        measures = {measure: torch.full_like(values, math.nan) for measure, values in measures.items()}
    return {
        name: {measure: values[number].item() for measure, values in measures.items()}
        for number, name in enumerate(class_names)
    }


def confusion(log_probabilities: Tensor, labels: Tensor) -> list[list[int]]:
    """The confusion matrix: counts of images by actual class (row) and predicted class (column), without images that
    have a NaN."""
    classes = log_probabilities.shape[1]
    known = ~log_probabilities.isnan().any(1)
    cells = labels[known] * classes + log_probabilities[known].argmax(1)
    return cells.bincount(minlength=classes * classes).reshape(classes, classes).tolist()


def reliability(log_probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Confidence against accuracy in each non-empty bin of confidence; 15 bins ((m-1)/15, m/15].

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017.

    Returns:
        A dict per bin: confidence and accuracy, means over the bin's images (0 to 1), and count. Images with a NaN are
        left out.
    """
    known = ~log_probabilities.isnan().any(1)
    best, predicted = log_probabilities[known].max(1)
    confidence = best.double().exp()
    # Without the last bound, 1: a probability may be rounded to just above it.
    bounds = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bins = torch.bucketize(confidence, bounds)
    counts = bins.bincount(minlength=BINS)
    confidences = bins.bincount(confidence, minlength=BINS)
    hits = bins.bincount((predicted == labels[known]).double(), minlength=BINS)
    return [
        {"confidence": (sum_ / count).item(), "accuracy": (right / count).item(), "count": int(count)}
        for count, sum_, right in zip(counts, confidences, hits)
        if count
    ]


def disagreement(log_probabilities: Tensor) -> float:
    """The share of images on which two networks predict different classes, averaged over all pairs of networks.

    Source: Kuncheva and Whitaker, Measures of Diversity in Classifier Ensembles, 2003.

    Args:
        log_probabilities: networks × images × classes.

    Returns:
        0 to 1; 0 for a single network.
    """
    if log_probabilities.isnan().any():
        return math.nan
    count, images, classes = log_probabilities.shape
    pairs = count * (count - 1) // 2
    if not pairs:
        return 0.0
    # Counted by how many networks chose each class: to visit the pairs would take time quadratic in the networks.
    choices = log_probabilities.argmax(2).T
    chosen = choices.new_zeros(images, classes).scatter_add(1, choices, torch.ones_like(choices))
    same = (chosen * (chosen - 1) // 2).sum().item()
    return (pairs * images - same) / (pairs * images)


def top_k(log_probabilities: Tensor, labels: Tensor, k: int) -> float:
    """The share of images whose label is among the k classes that are most probable, 0 to 1."""
    if log_probabilities.isnan().any():
        return math.nan
    chosen = log_probabilities.topk(k, 1).indices
    return (chosen == labels[:, None]).any(1).double().mean().item()
