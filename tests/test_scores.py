"""Scores against values computed by hand and by scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics

from lightning_modules import scores


def logs(rows) -> torch.Tensor:
    return torch.tensor(rows).log()


@pytest.fixture(scope="module")
def guesses():
    """Log-probabilities, images × classes, half right, and labels; class 3 is never predicted, class 4 never occurs."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (300,), generator=draw)
    raw = torch.randn(300, 5, generator=draw) + torch.nn.functional.one_hot(labels, 5)
    raw[:, 3] -= 20
    return raw.log_softmax(1), labels


def test_by_hand():
    predicted = logs([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    numbers = scores.score(predicted, torch.tensor([0, 1, 2, 2]))
    assert numbers["accuracy"] == 0.75
    assert numbers["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.8) + math.log(0.2) + math.log(0.6)) / 4)
    brier = (0.09 + 0.04 + 0.01) + (0.01 + 0.04 + 0.01) + (0.25 + 0.09 + 0.64) + (0.04 + 0.04 + 0.16)
    assert numbers["brier"] == pytest.approx(brier / 4)
    # Each image is alone in its bin of confidence.
    assert numbers["ece"] == pytest.approx((0.3 + 0.2 + 0.5 + 0.4) / 4, abs=1e-6)


def test_as_scikit_learn(guesses):
    predicted, labels = guesses
    numbers = scores.score(predicted, labels)
    probabilities = predicted.exp().double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    assert numbers["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted.argmax(1)))
    assert numbers["nll"] == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(5)), rel=1e-6)
    per_image = (probabilities - np.eye(5)[labels]) ** 2
    assert numbers["brier"] == pytest.approx(per_image.sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_top_k_is_scikit_learns(guesses, k):
    predicted, labels = guesses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a k that is all classes
        expected = metrics.top_k_accuracy_score(labels, predicted.numpy(), k=k, labels=range(5))
    assert scores.top_k(predicted, labels, k) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 5, 6, 10, 100])
def test_the_five_most_probable_are_a_score_where_there_are_more(classes):
    predicted = (-torch.arange(classes).float().expand(classes, -1)).log_softmax(1)
    labels = torch.arange(classes)  # the n-th is the n-th most probable
    numbers = scores.score(predicted, labels)
    if classes > 5:
        assert numbers["top_5"] == pytest.approx(5 / classes)
    else:
        assert "top_5" not in numbers
    assert scores.score(predicted * math.nan, labels).keys() == numbers.keys()


def test_nan_is_no_score(guesses):
    predicted, labels = guesses
    predicted = predicted.clone()
    predicted[3, 1] = math.nan
    assert math.isnan(scores.top_k(predicted, labels, 2))


def test_as_torchmetrics(guesses):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    predicted, labels = guesses
    probabilities, given = predicted.exp().double(), {"num_classes": 5}
    numbers = scores.score(predicted, labels)
    assert numbers["accuracy"] == pytest.approx(
        functional.multiclass_accuracy(probabilities, labels, average="micro", **given).item(), abs=1e-6
    )
    error = functional.multiclass_calibration_error(probabilities, labels, n_bins=15, norm="l1", **given)
    assert numbers["ece"] == pytest.approx(error.item(), abs=1e-6)
    rows = functional.multiclass_confusion_matrix(probabilities, labels, **given)
    assert scores.confusion(predicted, labels) == rows.tolist()
    by_class = list(scores.per_class(predicted, labels, list("abcde")).values())
    for name in ("precision", "recall", "f1"):
        measure = getattr(functional, f"multiclass_{name}{'_score' * (name == 'f1')}")
        expected = measure(probabilities, labels, average=None, **given)
        assert [of_class[name] for of_class in by_class] == pytest.approx(expected.tolist(), abs=1e-6)


def test_scores_are_plain_floats(guesses):
    assert all(type(value) is float for value in scores.score(*guesses).values())
    for numbers in scores.per_class(*guesses, list("abcde")).values():
        assert all(type(value) is float for value in numbers.values())


def test_the_certain_and_right_are_perfect_and_the_certain_and_wrong_worst():
    predicted = torch.eye(3).clamp_min(1e-30).log()
    right = scores.score(predicted, torch.tensor([0, 1, 2]))
    assert right == pytest.approx({"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}, abs=1e-6)
    wrong = scores.score(predicted, torch.tensor([1, 2, 0]))
    assert wrong == pytest.approx({"accuracy": 0.0, "nll": 30 * math.log(10), "brier": 2.0, "ece": 1.0}, rel=1e-5)


def test_who_knows_nothing_scores_as_a_guess():
    labels = torch.arange(4).repeat(25)
    numbers = scores.score(torch.full((100, 4), 0.25).log(), labels)
    assert numbers["nll"] == pytest.approx(math.log(4))
    assert numbers["brier"] == pytest.approx(0.75)
    assert numbers["ece"] == pytest.approx(0.0, abs=1e-6)


def confident(confidence: float, right: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` images of class 0, which `right` of them are given with the confidence, the others class 1."""
    row = [confidence, 1 - confidence]
    return logs([row] * right + [row[::-1]] * (count - right)), torch.zeros(count, dtype=torch.long)


def test_the_calibration_error_of_a_perfectly_calibrated_classifier_is_zero():
    parts = [confident(0.6, 6, 10), confident(0.9, 9, 10), confident(0.75, 15, 20)]
    predicted, labels = (torch.cat(values) for values in zip(*parts))
    assert scores.score(predicted, labels)["ece"] == pytest.approx(0.0, abs=1e-6)


def test_the_calibration_error_of_an_overconfident_classifier_is_its_excess():
    parts = [confident(0.99, 5, 10), confident(0.7, 18, 30)]
    predicted, labels = (torch.cat(values) for values in zip(*parts))
    expected = 0.25 * (0.99 - 0.5) + 0.75 * (0.7 - 0.6)
    assert scores.score(predicted, labels)["ece"] == pytest.approx(expected, abs=1e-6)


def test_the_reliability_table_adds_up_to_the_calibration_error(guesses):
    predicted, labels = guesses
    rows = scores.reliability(predicted, labels)
    assert sum(row["count"] for row in rows) == 300
    assert 1 < len(rows) <= scores.BINS
    assert [row["confidence"] for row in rows] == sorted(row["confidence"] for row in rows)
    numbers = scores.score(predicted, labels)
    ece = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / 300
    assert ece == pytest.approx(numbers["ece"], abs=1e-6)
    accuracy = sum(row["count"] * row["accuracy"] for row in rows) / 300
    assert accuracy == pytest.approx(numbers["accuracy"], abs=1e-6)


def test_bins_are_fifteen_and_closed_above():
    """Guo et al.: ((m-1)/M, m/M]. Half of the images at 1.0 and half at 0.95 share the last one."""
    labels = torch.zeros(200, dtype=torch.long)
    rows = torch.tensor([[1.0, 0.0]] * 100 + [[0.95, 0.05]] * 100)
    rows[[0, 150]] = rows[[0, 150]].flip(1)  # 99 % are right
    assert scores.score(rows.log(), labels)["ece"] == pytest.approx(0.0150, abs=1e-6)
    assert [row["count"] for row in scores.reliability(rows.log(), labels)] == [200]
    for number in range(8, 15):
        rows = [[number / 15 + shift, 0.0] for shift in (-1e-6, 1e-6)]
        apart = torch.tensor(rows, dtype=torch.float64).clamp_min(1e-30).log()
        assert len(scores.reliability(apart, labels[:2])) == 2


def test_a_probability_a_rounding_above_one_is_one():
    above = torch.tensor([[1.2e-7, -40.0]] * 4)
    assert scores.score(above, torch.zeros(4, dtype=torch.long))["ece"] == pytest.approx(0, abs=1e-6)
    assert len(scores.reliability(above, torch.zeros(4, dtype=torch.long))) == 1


def test_what_has_a_nan_has_no_score(guesses):
    predicted, labels = guesses
    predicted = predicted.clone()
    predicted[7, 2] = math.nan
    assert all(math.isnan(value) for value in scores.score(predicted, labels).values())
    for numbers in scores.per_class(predicted, labels, list("abcde")).values():
        assert all(math.isnan(value) for value in numbers.values())
    assert sum(map(sum, scores.confusion(predicted, labels))) == 299
    assert sum(row["count"] for row in scores.reliability(predicted, labels)) == 299


def test_confusion_counts_actual_by_predicted(guesses):
    log_probabilities, labels = guesses
    expected = metrics.confusion_matrix(labels, log_probabilities.argmax(1), labels=range(log_probabilities.shape[1]))
    assert scores.confusion(log_probabilities, labels) == expected.tolist()


def test_per_class_as_scikit_learn(guesses):
    predicted, labels = guesses
    table = scores.per_class(predicted, labels, list("abcde"))
    assert list(table) == list("abcde")
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted.argmax(1), labels=range(5), zero_division=0
    )
    for number, name in enumerate("abcde"):
        expected = {"precision": precision[number], "recall": recall[number], "f1": f1[number]}
        assert table[name] == pytest.approx(expected, abs=1e-6)
    assert table["d"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_disagreement_is_the_share_of_different_first_choices():
    choices = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 1], [0, 2, 2, 0]])
    predicted = (torch.nn.functional.one_hot(choices, 3) * 3.0).log_softmax(2)
    assert scores.disagreement(predicted) == pytest.approx((2 + 1 + 3) / 12)
    assert scores.disagreement(predicted[[2, 0, 1]]) == scores.disagreement(predicted)
    assert scores.disagreement(predicted[:1]) == 0.0
    assert scores.disagreement(predicted[[0, 0]]) == 0.0
    assert scores.disagreement(predicted[:, :1]) == 0.0


def test_disagreement_is_that_of_all_pairs_one_by_one():
    predicted = torch.randn(9, 40, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    choices = predicted.argmax(2)
    pairs = [(choices[a] != choices[b]).double().mean().item() for a in range(9) for b in range(a)]
    assert scores.disagreement(predicted) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
