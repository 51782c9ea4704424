"""Whether two samples of images come from one distribution, by SciPy's two-sample Kolmogorov-Smirnov test, and by a
chi-squared test of how often each class is predicted.

Source: Rabanser, Günnemann and Lipton, Failing Loudly, 2019: a test for each dimension of a low-dimensional view of the
images, with Bonferroni's correction; of the views that they compare, the softmax outputs of the classifier itself
(Lipton, Wang and Smola, 2018) find most. Embeddings have hundreds of dimensions that depend on each other; they are
reduced to one, the score of a classifier that was trained to tell the two samples apart (Lopez-Paz and Oquab, 2017).
"""

from dataclasses import dataclass

import numpy as np

from flows.project.errors import InputError

# Images of a class that chi-squared needs, in expectation, and that the reference has to have, whose confusion would be
# too uncertain. Classes with less are taken together.
FEWEST, FEWEST_KNOWN = 5, 20
# Principal components that the classifier sees, as many as Failing Loudly keeps.
COMPONENTS = 32


@dataclass(frozen=True)
class Result:
    """One test.

    statistic: the largest distance between the two cumulative distributions, 0 to 1. It is an effect size: at least
        this share of the incoming images would have to be others for the distributions to agree. Of the classes: by
        how much the share of one has changed at most, see `ClassShares`.
    p: corrected for the number of tests, at most 1.
    auc: of the classifier that tells the samples apart; None where there was none.
    """

    view: str
    name: str
    statistic: float
    p: float
    auc: float | None = None


@dataclass(frozen=True)
class ClassShares:
    """How often each class occurs, see `class_shares`.

    classes: their numbers; -1 at the end for all of which the reference has too few images, taken together.
    held_out: the shares of the held-out images that are of these classes.
    estimated: those of the incoming images.
    p: that the two differ only by chance, not corrected.
    """

    classes: list[int]
    held_out: list[float]
    estimated: list[float]
    p: float


def class_shares(incoming: np.ndarray, reference: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> ClassShares:
    """Whether classes are predicted as often as a classifier with the reference's confusion would predict them if they
    were as frequent as among the held-out images; and how frequent they are.

    Source: Lipton, Wang and Smola, Detecting and Correcting for Label Shift with Black Box Predictors, 2018. The
    expected frequencies are the confusion times the shares of the classes, and chi-squared is taken with the variance
    of both: what the incoming sample varies by, and what the confusion and the shares are uncertain by. The reference
    is a sample, but the labels of all held-out images are known: that makes its part small. The shares of the incoming
    images are those from which the confusion makes what is predicted.

    Args:
        incoming, reference: the predicted classes of the two samples.
        labels: the true ones of the reference.
        held_out: the true ones of all images that the reference is a sample of.
    """
    from scipy.optimize import nnls
    from scipy.stats import chi2

    number = 1 + int(max(map(np.max, (incoming, reference, held_out))))
    predicted = [np.bincount(sample, minlength=number) for sample in (incoming, reference)]
    both = (predicted[0] + predicted[1]) / (len(incoming) + len(reference))
    rows = np.flatnonzero((len(incoming) * both >= FEWEST) & (len(reference) * both >= FEWEST_KNOWN))
    columns = np.flatnonzero(np.bincount(labels, minlength=number) >= FEWEST_KNOWN)
    seen, known = together(incoming, rows), together(held_out, columns)
    joint = np.zeros((len(rows) + 1, len(columns) + 1))
    np.add.at(joint, (place(reference, rows), place(labels, columns)), 1)
    used = (seen > 0) | (joint.sum(1) > 0), (known > 0) | (joint.sum(0) > 0)
    joint, seen, known = joint[np.ix_(*used)], seen[used[0]] / len(incoming), known[used[1]] / len(held_out)

    count = joint.sum(0)
    # One image more in each class, predicted as on average: what was never seen to be confused has a variance, too.
    smooth = (joint + joint.sum(1, keepdims=True) / len(reference)) / (count + 1)
    confusion = np.where(count > 0, joint / np.maximum(count, 1), smooth)
    expected = confusion @ known
    pooled = (len(incoming) * seen + len(reference) * expected) / (len(incoming) + len(reference))
    weight = known**2 / np.maximum(count, 1)
    covariance = (
        multinomial(pooled) / len(incoming)
        + np.diag(smooth @ weight) - (smooth * weight) @ smooth.T  # of the confusion, class by class
        + smooth @ multinomial(known) @ smooth.T / len(held_out)
    )  # fmt: skip
    difference, freedom = seen - expected, len(seen) - 1
    p = 1.0
    if freedom:  # the last one is what is left
        distance = difference[:-1] @ np.linalg.solve(covariance[:-1, :-1], difference[:-1])
        p = float(chi2.sf(distance, freedom))
    # Where the confusion does not tell classes apart, their shares stay as they are known.
    tie = 1e-3 * np.eye(len(known))
    estimated, _ = nnls(np.concatenate([confusion, tie]), np.concatenate([seen, tie @ known]))
    classes = np.append(columns, -1)[used[1]]
    return ClassShares(classes.tolist(), known.tolist(), (estimated / estimated.sum()).tolist(), p)


def multinomial(shares: np.ndarray) -> np.ndarray:
    """The covariance of one draw."""
    return np.diag(shares) - np.outer(shares, shares)


def place(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of each value its place in `kept`, which is sorted, or behind all where it is none of these."""
    at = np.searchsorted(kept, values)
    return np.where(np.append(kept, -1)[at] == values, at, len(kept))


def together(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """How often each of `kept` occurs, and all others together."""
    return np.bincount(place(values, kept), minlength=len(kept) + 1)


def compare(
    views: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], shares: ClassShares | None = None
) -> list[Result]:
    """Tests every quantity of every view.

    Bonferroni's correction has two levels: each view may raise the same share of the false alarms, whatever the number
    of its quantities, so that a thousand classes do not drown the brightness.

    Args:
        views: by view and quantity, its values for the incoming images and for those of the reference, one each.
        shares: of the classes: one view more, with one test.

    Raises:
        InputError: a value is NaN or infinite, for which a test would find no difference.
    """
    from scipy.stats import ks_2samp

    results, number = [], len(views) + (shares is not None)
    for view, quantities in views.items():
        for name, (incoming, reference) in quantities.items():
            refuse_unless_finite(name, incoming, reference)
            # What SciPy calls exact is so where no two values are equal; probabilities of 0 and 1 often are.
            found = ks_2samp(incoming, reference, method="asymp")
            p = min(1.0, float(found.pvalue) * len(quantities) * number)
            auc = area(incoming, reference) if view == "embeddings" else None
            results.append(Result(view, name, float(found.statistic), p, auc))
    if shares:
        change = float(np.abs(np.subtract(shares.estimated, shares.held_out)).max())
        results.append(Result("labels", "class shares", change, min(1.0, shares.p * number)))
    return results


def refuse_unless_finite(name: str, incoming: np.ndarray, reference: np.ndarray) -> None:
    """Raises InputError where a value, of which there are one or several for each image, is NaN or infinite."""
    for side, values in (("incoming", incoming), ("held-out", reference)):
        if wrong := int((~np.isfinite(values.reshape(len(values), -1))).any(1).sum()):
            raise InputError(
                f"{name} is no finite number for {wrong:,} of {len(values):,} {side} images: they cannot be compared"
            )


def area(incoming: np.ndarray, reference: np.ndarray) -> float:
    """Area under the ROC curve: how often an incoming image's score is above that of one of the reference."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(incoming), len(reference)])
    return float(roc_auc_score(labels, np.concatenate([incoming, reference])))


def classifier_scores(incoming: np.ndarray, reference: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores of a linear classifier for the halves that it was not trained on; on the others it would always win.

    Args:
        incoming, reference: embeddings, N×features.

    Raises:
        InputError: one of them is NaN or infinite.
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
        # Features are not scaled to the same variance: what has moved far would then count no more than the rest.
        PCA(min(COMPONENTS, *given.shape), whiten=True, svd_solver="full"),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    with np.errstate(invalid="ignore"):  # features that never change have no variance to explain
        classifier.fit(given, np.repeat([1, 0], [len(seen), len(seen_reference)]))
    return classifier.decision_function(unseen), classifier.decision_function(unseen_reference)
