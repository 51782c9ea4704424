"""What is measured of a classifier, a single network or an ensemble alike."""

import torch
from torch import Tensor

from lightning_modules.torchmetrics_alone import classification

BINS = 15  # of confidence, for the calibration error


def score(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers that a classifier is compared by.

    Args:
        log_probabilities: images × classes.
        labels: images, int64.

    Returns:
        accuracy (0 to 1); nll, the mean negative log-likelihood in nats; brier, the mean squared distance between
        probabilities and truth, summed over classes (0 to 2: Brier, 1950); ece, the expected calibration error
        with 15 bins (0 to 1: Naeini et al., 2015).
    """
    probabilities = log_probabilities.exp()
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    numbers = {
        "accuracy": (log_probabilities.argmax(1) == labels).double().mean(),
        "nll": torch.nn.functional.nll_loss(log_probabilities.double(), labels),
        "brier": (probabilities.double() - truth).square().sum(1).mean(),
        "ece": classification.multiclass_calibration_error(
            probabilities, labels, num_classes=probabilities.shape[1], n_bins=BINS, norm="l1"
        ),
    }
    return {name: value.item() for name, value in numbers.items()}


def per_class(log_probabilities: Tensor, labels: Tensor, class_names: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each class; 0 where a class is never predicted, or does not occur."""
    options = {"num_classes": len(class_names), "average": "none"}
    measures = {
        "precision": classification.multiclass_precision(log_probabilities, labels, **options),
        "recall": classification.multiclass_recall(log_probabilities, labels, **options),
        "f1": classification.multiclass_f1_score(log_probabilities, labels, **options),
    }
    return {
        name: {measure: values[number].item() for measure, values in measures.items()}
        for number, name in enumerate(class_names)
    }


def confusion(log_probabilities: Tensor, labels: Tensor) -> list[list[int]]:
    """The number of images of each actual class (row) that were predicted as each class (column)."""
    classes = log_probabilities.shape[1]
    return classification.multiclass_confusion_matrix(log_probabilities, labels, num_classes=classes).tolist()


def reliability(log_probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """For each bin of confidence that holds images: mean confidence, accuracy and count (Guo et al., 2017)."""
    confidence, predicted = log_probabilities.exp().max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    rows = []
    for number in bins.unique().tolist():
        inside = bins == number
        rows.append(
            {
                "confidence": confidence[inside].mean().item(),
                "accuracy": (predicted[inside] == labels[inside]).float().mean().item(),
                "count": int(inside.sum()),
            }
        )
    return rows


def disagreement(log_probabilities: Tensor) -> float:
    """The share of images on which two networks differ in their first choice, over all pairs of networks.

    Source: Kuncheva and Whitaker, Measures of Diversity in Classifier Ensembles, 2003.

    Args:
        log_probabilities: networks × images × classes; of one network it is 0.
    """
    count, images, classes = log_probabilities.shape
    pairs = count * (count - 1) // 2
    if not pairs:
        return 0.0
    # Counted by the networks that chose the same class: the pairs themselves grow with the square of the networks.
    choices = log_probabilities.argmax(2).T
    chosen = choices.new_zeros(images, classes).scatter_add(1, choices, torch.ones_like(choices))
    same = (chosen * (chosen - 1) // 2).sum().item()
    return (pairs * images - same) / (pairs * images)
