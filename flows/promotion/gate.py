"""The gate: decides whether the challenger may replace the champion, by their predictions on the pinned test images.

Reads   data/<dataset>/, and both models from MLflow's registry, as they are served
Writes  nothing: `flows.promotion.promoting` records the decision and moves the aliases

A challenger passes if it is right on more images than the champion, on more than chance would explain, and exceeds none
of the limits in params.yaml. After a tie, with other test images, or with a missing or NaN metric the champion stays.
"""

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.params.params_file import Params
from flows.params.sections import Gate
from flows.project.errors import InputError, our_mistake
from flows.promotion import decisions, promoting
from flows.statistics import paired
from flows.tracking.loading import load_version
from flows.tracking.mlflow_runs import TEST
from flows.tracking.mlflow_store import shown_store
from flows.tracking.registration import SCORES
from flows.tracking.registry import CHALLENGER, CHAMPION, Registry
from flows.untrusted.masking import sentence

if TYPE_CHECKING:
    import numpy as np

    from flows.models.served_ensemble import ServedEnsemble
    from flows.tracking.loading import ForeignModel


BATCH, REPEATS = 100, 5  # images and repetitions of the latency measurement
# Largest difference between a model's accuracy now and in its run; one image may always differ. Hardware rounds
# differently.
SAME = 0.005
ROUNDING = 1e-6  # of a probability in single precision


def decide(dataset: str, params: Params) -> dict:
    """Judges the challenger against the champion.

    Returns:
        A decision, of plain JSON types:
        verdict: "promote", "refuse", or "nothing" if the challenger is the champion already.
        promote: whether the verdict is "promote".
        reasons: sentences.
        challenger, champion: versions, as strings; champion is None if there is none yet.
        numbers: see `judge`; empty if the models were not compared.
        dataset, test_sha256, limits (of params.yaml), decided_at (ISO 8601).

    Raises:
        InputError: no model is registered, or the data is missing or damaged.
        UnavailableError: MLflow does not answer, or a model cannot be loaded. Nothing is decided then.
    """
    from flows.data.dataset import refuse_other_tasks

    hint = ": look at `trainyard results`, and promote with --force REASON"
    refuse_other_tasks(dataset, "the gate, McNemar's test, compares", hint)
    decision = undecided(dataset, params)
    challenger, champion = decision["challenger"], decision["champion"]
    if challenger == champion:
        said = f"version {champion} is the champion already: there is nothing to decide"
        return decision | {"reasons": [said]}
    registry = Registry(dataset)
    sides = {"challenger": challenger} | ({"champion": champion} if champion else {})
    decision |= compare(registry, sides, params.gate)
    _, tags = registry.describe()
    if promoting.is_taken_back(promoting.record_of(tags, champion), challenger):
        against = decision["reasons"] if decision["verdict"] == "refuse" else []
        said = f"somebody took version {challenger} back for version {champion}: only --force promotes it again"
        decision |= {"verdict": "refuse", "reasons": [said, *against]}
    return decision | {"promote": decision["verdict"] == "promote"}


def undecided(dataset: str, params: Params, *reasons: str) -> dict:
    """A decision that refuses the challenger without a comparison, for these reasons. For its keys see `decide`."""
    aliases = Registry(dataset).aliases()
    challenger, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if challenger is None:
        raise InputError(
            f"there is no challenger for {dataset} in {shown_store()}: `make repro` trains and registers one, "
            "and where all is up to date `trainyard track` does"
        )
    return {
        "dataset": dataset,
        "verdict": "nothing" if challenger == champion else "refuse",
        "promote": False,
        "reasons": list(reasons),
        "challenger": challenger,
        "champion": champion,
        "test_sha256": None,
        "limits": params.gate.model_dump(),
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "numbers": {},
    }


def compare(registry: Registry, sides: dict[str, str], limits: Gate) -> dict:
    """Compares the versions. Returns verdict, reasons, numbers and test_sha256 of a decision, see `decide`.

    Args:
        sides: the version of the "challenger", and of the "champion" if there is one.
    """
    from flows.data import dataset
    from flows.data.dataset import digest_of_test_data

    data = dataset.load(registry.dataset)
    images, labels = data.split("test")
    digest = digest_of_test_data(images, labels)
    versions = {side: registry.version(number) for side, number in sides.items()}
    problems = [
        f"version {version['version']} was made with other test data than that in data/{registry.dataset} "
        f"({version['tags'].get(TEST, 'no digest')[:12]}, not {digest[:12]})"
        for version in versions.values()
        if version["tags"].get(TEST) != digest
    ]
    logged = {side: registry.metrics(version["run_id"]) for side, version in versions.items()}
    for side, metrics in logged.items():
        missing = [name for name in SCORES if not math.isfinite(metrics.get(name, math.nan))]
        if missing:
            problems.append(f"the run of version {sides[side]} has no number for {', '.join(missing)}")
    if problems:
        return {"verdict": "refuse", "reasons": problems, "test_sha256": digest}
    models = {side: load_version(registry.dataset, number) for side, number in sides.items()}
    names = data.card["class_names"]
    answers = {}
    for side, model in models.items():
        try:
            answers[side] = probabilities(model, images, names)
        except ValueError as error:
            problems.append(f"version {sides[side]} gives no answer that can be used: {error}")
    if problems:
        return {"verdict": "refuse", "reasons": problems, "test_sha256": digest}
    number = decisions.number_of(registry, digest, sides["challenger"], sides.get("champion"))
    numbers, problems = judge(answers, labels, names, latencies(models, images), limits, number)
    for side, now in numbers.get("accuracy", {}).items():
        metrics = logged[side]
        if abs(now - metrics["test_accuracy"]) > max(SAME, 1.5 / len(labels)):
            problems.append(
                f"version {sides[side]} has {now:.2%} of the test images right, but its run says "
                f"{metrics['test_accuracy']:.2%}: it is not the model that was measured"
            )
    if problems:
        return {"verdict": "refuse", "reasons": problems, "numbers": numbers, "test_sha256": digest}
    return {"verdict": "promote", "reasons": [passed(numbers)], "numbers": numbers, "test_sha256": digest}


def probabilities(model: "ServedEnsemble | ForeignModel", images: "np.ndarray", class_names: list[str]) -> "np.ndarray":
    """The probabilities that a served model predicts: float64, images × classes.

    Raises:
        ValueError: it has other classes, refuses these images, or predicts something that is no probability.
    """
    import numpy as np

    try:
        frame = model.predict(images)
    except Exception as error:  # of MLflow, torch or the model's own code
        if our_mistake(error):
            raise
        raise ValueError(sentence(error)) from None
    names = [str(name) for name in frame.columns if name != "label"]
    if names != list(class_names):
        raise ValueError(f"its classes are {', '.join(names)}, those of the data {', '.join(class_names)}")
    answers = frame[class_names].to_numpy(np.float64)
    if answers.shape[0] != len(images):
        raise ValueError(f"{answers.shape[0]} answers for {len(images)} images")
    # Written so that NaN is wrong: a comparison with it is false. By rounding, a probability may be above 1.
    wrong = ~(((answers >= 0) & (answers <= 1 + ROUNDING)).all(1) & (abs(answers.sum(1) - 1) < 1e-3))
    if wrong.any():
        raise ValueError(f"on {wrong.sum():,} of {len(images):,} images its probabilities are none, NaN for example")
    return answers.clip(max=1)


def latencies(models: dict, images: "np.ndarray") -> dict[str, float]:
    """Milliseconds per image that a caller of `predict` waits for each model.

    Measured on the CPU with torch's default number of threads, in a batch of at most 100 images: the fastest of five
    calls after a warm-up, because other work on the machine only ever adds time. The models take turns.
    """
    batch = images[:BATCH]
    seconds: dict[str, list[float]] = {side: [] for side in models}
    for _ in range(1 + REPEATS):
        for side, model in models.items():
            begun = time.perf_counter()
            model.predict(batch)
            seconds[side].append(time.perf_counter() - begun)
    return {side: min(taken[1:]) / len(batch) * 1000 for side, taken in seconds.items()}


def judge(
    answers: dict[str, "np.ndarray"],
    labels: "np.ndarray",
    class_names: list[str],
    latency: dict[str, float],
    limits: Gate,
    number: int = 1,
) -> tuple[dict, list[str]]:
    """Compares the models' predictions.

    Args:
        answers: probabilities, images × classes, of the "challenger", and of the "champion" if there is one.
        labels: int64, images.
        latency: milliseconds per image, of each.
        number: of this decision among those on the same test images, from 1; see `paired.share_of_alpha`.

    Returns:
        Two values. The second is a list of reasons against the challenger, sentences; empty if it passes. The first
        has these numbers:
        test_images: their count.
        accuracy, nll, ece (see `scores.score`), latency_ms: each by "challenger" and "champion".
        With a champion also:
        number, alpha: this decision's number, and its share of gate.alpha.
        wins, losses: images that only the challenger, or only the champion, has right.
        difference, interval: of accuracy, and its interval at the level 1 - alpha, see `paired.score_interval`.
        p_exact: see `paired.mcnemar`.
        ece_increase: of the challenger over the champion.
        classes, worst_class: see `paired.accuracy_by_class`, with the challenger first.
    """
    import numpy as np
    import torch

    from lightning_modules import scores

    smallest = np.finfo(np.float32).tiny  # instead of 0, which has no logarithm
    truth = torch.from_numpy(labels)
    scored = {
        side: scores.score(torch.from_numpy(np.log(np.maximum(answer, smallest))), truth)
        for side, answer in answers.items()
    }
    numbers: dict = {"test_images": len(labels)}
    for name in ("accuracy", "nll", "ece"):
        numbers[name] = {side: measured[name] for side, measured in scored.items()}
    numbers["latency_ms"] = latency
    for name in ("accuracy", "nll", "ece", "latency_ms"):
        if not all(math.isfinite(value) for value in numbers[name].values()):
            return {"test_images": len(labels)}, [f"its {name} or that of the champion is no number"]
    problems = []
    if limits.latency_ms is not None and not latency["challenger"] <= limits.latency_ms:
        problems.append(
            f"it takes {latency['challenger']:.3g} ms per image, and gate.latency_ms allows {limits.latency_ms:g}"
        )
    if "champion" not in answers:
        return numbers, problems

    right = {side: answer.argmax(1) == labels for side, answer in answers.items()}
    wins = int((right["challenger"] & ~right["champion"]).sum())
    losses = int((right["champion"] & ~right["challenger"]).sum())
    difference = (wins - losses) / len(labels)
    alpha = paired.share_of_alpha(limits.alpha, number)
    low, high = paired.score_interval(wins, losses, len(labels), 1 - alpha)
    classes = paired.accuracy_by_class(right["challenger"], right["champion"], labels, class_names)
    worst = min(classes, key=lambda name: classes[name]["difference"])
    increase = scored["challenger"]["ece"] - scored["champion"]["ece"]
    numbers |= {
        "wins": wins, "losses": losses, "difference": difference, "interval": [low, high], "alpha": alpha,
        "number": number, "p_exact": paired.mcnemar(wins, losses), "ece_increase": increase,
        "worst_class": worst, "classes": classes,
    }  # fmt: skip
    problems += not_better(numbers, limits)
    drop = -classes[worst]["difference"] * 100
    if limits.class_drop is not None and not drop <= limits.class_drop:
        problems.append(f"class {worst} loses {drop:.2f} points, and gate.class_drop allows {limits.class_drop:g}")
    if limits.ece_increase is not None and not increase <= limits.ece_increase:
        problems.append(
            f"its calibration error grows by {increase:.4f}, and gate.ece_increase allows {limits.ece_increase:g}"
        )
    return numbers, problems


def not_better(numbers: dict, limits: Gate) -> list[str]:
    """Why a difference in accuracy does not count as better; empty if it does."""
    counted = f"{numbers['wins']} won, {numbers['losses']} lost of {numbers['test_images']:,} images"
    if numbers["difference"] == 0:
        return [f"a tie: {counted}"]
    if numbers["difference"] < 0:
        return [f"it is worse by {-numbers['difference'] * 100:.2f} points: {counted}"]
    if not numbers["p_exact"] < numbers["alpha"]:
        low, high = numbers["interval"]
        level = paired.confidence_text(numbers["alpha"])
        return [
            f"better by {numbers['difference'] * 100:.2f} points, but chance would do that too: {counted}, McNemar's "
            f"exact p = {numbers['p_exact']:.3g} is not below {numbers['alpha']:.2g}, the share of gate.alpha "
            f"({limits.alpha:g}) that decision {numbers['number']} on these test images has; the difference lies "
            f"between {low * 100:+.2f} and {high * 100:+.2f} points ({level} interval)"
        ]
    return []


def passed(numbers: dict) -> str:
    """A sentence that says why the challenger passed."""
    accuracy = numbers["accuracy"]
    if "champion" not in accuracy:
        return f"there is no champion yet, and it has {accuracy['challenger']:.2%} of the test images right"
    low, high = numbers["interval"]
    return (
        f"better by {numbers['difference'] * 100:.2f} points ({accuracy['challenger']:.2%}, not "
        f"{accuracy['champion']:.2%}): {numbers['wins']} won, {numbers['losses']} lost of "
        f"{numbers['test_images']:,} images, McNemar's exact p = {numbers['p_exact']:.2g}, "
        f"{paired.confidence_text(numbers['alpha'])} interval {low * 100:+.2f} to {high * 100:+.2f} points, "
        f"decision {numbers['number']} on these test images"
    )
