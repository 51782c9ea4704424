"""Two-sample tests: whether two samples of images come from one distribution.

SciPy's Kolmogorov-Smirnov test compares measured quantities; a chi-squared test compares how often each class is
predicted.

Source: Rabanser, Günnemann and Lipton, Failing Loudly, 2019. They test each dimension of a low-dimensional view of the
images, with Bonferroni's correction, and find most with the classifier's own softmax outputs as the view (Lipton, Wang
and Smola, 2018). Embeddings have hundreds of dimensions that depend on each other. They are reduced to one: the score
of a classifier trained to tell the two samples apart (Lopez-Paz and Oquab, 2017).
"""

from dataclasses import dataclass

import numpy as np

from flows.project.errors import InputError

# The fewest images of a class: expected, for chi-squared to hold; and in the reference, for its confusion to be known
# well enough. Classes with fewer are pooled.
FEWEST, FEWEST_KNOWN = 5, 20
# Principal components given to the classifier, as many as in Failing Loudly.
COMPONENTS = 32


@dataclass(frozen=True)
class Result:
    """The result of one test.

    statistic: the largest distance between the two cumulative distributions, 0 to 1. It is an effect size: at least
        this share of the incoming images would have to change for the distributions to agree. For the classes: the
        largest change of a class's share, see `ClassShares`.
    p: the p-value, corrected for the number of tests, at most 1.
    auc: area under the ROC curve of the classifier that tells the samples apart; None where there is no classifier.
    """

    view: str
    name: str
    statistic: float
    p: float
    auc: float | None = None


@dataclass(frozen=True)
class ClassShares:
    """How often each class occurs, see `class_shares`.

    classes: labels; a last one of -1 stands for all classes with too few reference images, pooled.
    held_out: the share of each class among the held-out images, 0 to 1.
    estimated: its estimated share among the incoming images, 0 to 1.
    p: the p-value of the test that both are the same, not corrected.
    """

    classes: list[int]
    held_out: list[float]
    estimated: list[float]
    p: float


def class_shares(incoming: np.ndarray, reference: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> ClassShares:
    """Tests for label shift, and estimates the shares of the classes among the incoming images.

    Null hypothesis: the classes are as frequent as among the held-out images, and the classifier confuses them as in
    the reference.

    Source: Lipton, Wang and Smola, Detecting and Correcting for Label Shift with Black Box Predictors, 2018. The
    expected frequencies of the predictions are the confusion matrix times the shares of the classes. Chi-squared is
    taken with the variance of the incoming sample and of the confusion and the shares. The reference is a sample, but
    the labels of all held-out images are known, which keeps the second variance small. The estimated shares are those
    which the confusion matrix turns into the predictions.

    Args:
        incoming, reference: the predicted classes of the two samples.
        labels: the true classes of the reference.
        held_out: the true classes of all images from which the reference was drawn.
    """
    from scipy.optimize import nnls
    from scipy.stats import chi2

    number = 1 + int(max(map(np.max, (incoming, reference, held_out))))
    predicted = [np.bincount(sample, minlength=number) for sample in (incoming, reference)]
    both = (predicted[0] + predicted[1]) / (len(incoming) + len(reference))
    rows = np.flatnonzero((len(incoming) * both >= FEWEST) & (len(reference) * both >= FEWEST_KNOWN))
    columns = np.flatnonzero(np.bincount(labels, minlength=number) >= FEWEST_KNOWN)
    seen, known = pooled_counts(incoming, rows), pooled_counts(held_out, columns)
    joint = np.zeros((len(rows) + 1, len(columns) + 1))
    np.add.at(joint, (index_in(reference, rows), index_in(labels, columns)), 1)
    used = (seen > 0) | (joint.sum(1) > 0), (known > 0) | (joint.sum(0) > 0)
    joint, seen, known = joint[np.ix_(*used)], seen[used[0]] / len(incoming), known[used[1]] / len(held_out)

    count = joint.sum(0)
    # One more image in each class, predicted as on average: a confusion that was never seen has a variance, too.
    smooth = (joint + joint.sum(1, keepdims=True) / len(reference)) / (count + 1)
    confusion = np.where(count > 0, joint / np.maximum(count, 1), smooth)
    expected = confusion @ known
    pooled = (len(incoming) * seen + len(reference) * expected) / (len(incoming) + len(reference))
    weight = known**2 / np.maximum(count, 1)
    covariance = (
        multinomial_covariance(pooled) / len(incoming)
        + np.diag(smooth @ weight) - (smooth * weight) @ smooth.T  # variance of the confusion, class by class
        + smooth @ multinomial_covariance(known) @ smooth.T / len(held_out)
    )  # fmt: skip
    difference, freedom = seen - expected, len(seen) - 1
    p = 1.0
    if freedom:  # the shares sum to 1: the last one is not free
        distance = difference[:-1] @ np.linalg.solve(covariance[:-1, :-1], difference[:-1])
        p = float(chi2.sf(distance, freedom))
    # Classes that the confusion does not tell apart keep their known shares.
    tie = 1e-3 * np.eye(len(known))
    estimated, _ = nnls(np.concatenate([confusion, tie]), np.concatenate([seen, tie @ known]))
    classes = np.append(columns, -1)[used[1]]
    return ClassShares(classes.tolist(), known.tolist(), (estimated / estimated.sum()).tolist(), p)


def multinomial_covariance(shares: np.ndarray) -> np.ndarray:
    """The covariance matrix of one multinomial draw."""
    return np.diag(shares) - np.outer(shares, shares)


def index_in(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The index of each value in `kept`, which is sorted; `len(kept)` for a value that is not in it."""
    at = np.searchsorted(kept, values)
    return np.where(np.append(kept, -1)[at] == values, at, len(kept))


def pooled_counts(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """How often each of `kept` occurs; the last count is that of all other values."""
    return np.bincount(index_in(values, kept), minlength=len(kept) + 1)


def compare(
    views: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], shares: ClassShares | None = None
) -> list[Result]:
    """Tests every quantity of every view.

    Bonferroni's correction has two levels: each view gets the same share of the false alarms, whatever the number of
    its quantities. So the quantities of a thousand classes do not drown the brightness.

    Args:
        views: by view and quantity: its values for the incoming and for the reference images, one an image.
        shares: the result of `class_shares`, which counts as one more view with one test.

    Raises:
        InputError: a value is NaN or infinite. A test would find no difference there.
    """
    from scipy.stats import ks_2samp

    results, number = [], len(views) + (shares is not None)
    for view, quantities in views.items():
        for name, (incoming, reference) in quantities.items():
            refuse_unless_finite(name, incoming, reference)
            # SciPy's exact method is exact only without ties, and probabilities of 0 and 1 are often equal.
            found = ks_2samp(incoming, reference, method="asymp")
            p = min(1.0, float(found.pvalue) * len(quantities) * number)
            auc = roc_auc(incoming, reference) if view == "embeddings" else None
            results.append(Result(view, name, float(found.statistic), p, auc))
    if shares:
        change = float(np.abs(np.subtract(shares.estimated, shares.held_out)).max())
        results.append(Result("labels", "class shares", change, min(1.0, shares.p * number)))
    return results


def refuse_unless_finite(name: str, incoming: np.ndarray, reference: np.ndarray) -> None:
    """Raises InputError where a value is NaN or infinite. Each image has one value or several."""
    for side, values in (("incoming", incoming), ("held-out", reference)):
        if wrong := int((~np.isfinite(values.reshape(len(values), -1))).any(1).sum()):
            raise InputError(
                f"{name} is no finite number for {wrong:,} of {len(values):,} {side} images: they cannot be compared"
            )


def roc_auc(incoming: np.ndarray, reference: np.ndarray) -> float:
    """Area under the ROC curve: how often an incoming image scores above a reference image."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(incoming), len(reference)])
    return float(roc_auc_score(labels, np.concatenate([incoming, reference])))


def classifier_scores(incoming: np.ndarray, reference: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores of a linear classifier for the halves of both samples that it was not trained on.

    On the halves that it was trained on it would always tell the samples apart.

    Args:
        incoming, reference: embeddings, N×features.

    Raises:
        InputError: a value is NaN or infinite.
    """
    refuse_unless_finite("an embedding", incoming, reference)
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    generator = np.random.default_rng(seed)
    (seen, unseen), (seen_reference, unseen_reference) = (
        np.array_split(sample[generator.permutation(len(sample))], 2) for sample in (incoming, reference)
    )
    given = np.concatenate([seen, seen_reference]).astype(np.float64)
    classifier = make_pipeline(
        # Features are not scaled to the same variance: one that moved far would then count no more than the rest.
        PCA(min(COMPONENTS, *given.shape), whiten=True, svd_solver="full"),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    with np.errstate(invalid="ignore"):  # features that never change have no variance to explain
        classifier.fit(given, np.repeat([1, 0], [len(seen), len(seen_reference)]))
    return classifier.decision_function(unseen), classifier.decision_function(unseen_reference)
