"""Whether two samples of images come from one distribution, by SciPy's two-sample Kolmogorov-Smirnov test.

Source: Rabanser, Günnemann and Lipton, Failing Loudly, 2019: a test for each dimension of a low-dimensional view of the
images, with Bonferroni's correction; of the views that they compare, the softmax outputs of the classifier itself
(Lipton, Wang and Smola, 2018) find most. Embeddings have hundreds of dimensions that depend on each other; they are
reduced to one, the score of a classifier that was trained to tell the two samples apart (Lopez-Paz and Oquab, 2017).
"""

from dataclasses import dataclass

import numpy as np

from lightning_modules.errors import InputError

# Principal components that the classifier sees, as many as Failing Loudly keeps.
COMPONENTS = 32


@dataclass(frozen=True)
class Result:
    """One test.

    statistic: the largest distance between the two cumulative distributions, 0 to 1. It is an effect size: at least
        this share of the incoming images would have to be others for the distributions to agree.
    p: corrected for the number of tests, at most 1.
    auc: of the classifier that tells the samples apart; None where there was none.
    """

    view: str
    name: str
    statistic: float
    p: float
    auc: float | None = None


def compare(views: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]) -> list[Result]:
    """Tests every quantity of every view.

    Bonferroni's correction has two levels: each view may raise the same share of the false alarms, whatever the number
    of its quantities, so that a thousand classes do not drown the brightness.

    Args:
        views: by view and quantity, its values for the incoming images and for those of the reference, one each.

    Raises:
        InputError: a value is NaN or infinite, for which a test would find no difference.
    """
    from scipy.stats import ks_2samp

    results = []
    for view, quantities in views.items():
        for name, (incoming, reference) in quantities.items():
            refuse_unless_finite(name, incoming, reference)
            # What SciPy calls exact is so where no two values are equal; probabilities of 0 and 1 often are.
            found = ks_2samp(incoming, reference, method="asymp")
            p = min(1.0, float(found.pvalue) * len(quantities) * len(views))
            auc = area(incoming, reference) if view == "embeddings" else None
            results.append(Result(view, name, float(found.statistic), p, auc))
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
