"""The gate's decisions on the same test images: how many there were, and what the next one needs.

Each decision is a tag of the registered model, so that it counts even after its versions are deleted. Decisions of old
versions of this project, without such tags, are read from the tags of the models' versions.
"""

import itertools
import json
import statistics
from typing import Any

from flows.project.errors import UnavailableError
from flows.statistics import paired
from flows.tracking.registry import Registry

DECISION = "trainyard.gate.decision"  # tag of a version: the last decision on it, in full
NOTE = "trainyard.gate.on."  # prefix of a tag of the model, one per decision: the test images' digest, and its number
DIGITS = 16  # of the digest


def on(registry: Registry, digest: str) -> list[dict]:
    """The decisions that compared two models on the test images, in their order.

    Args:
        digest: of the test images.

    Returns:
        A dict per decision: number (from 1), challenger, champion, images (of the test split), and differing (images
        that only one of the two has right).

    Raises:
        UnavailableError: MLflow does not answer.
    """
    _, tags = registry.describe()
    prefix = f"{NOTE}{digest[:DIGITS]}."
    noted = [json.loads(value) for name, value in tags.items() if name.startswith(prefix)]
    pairs = {(entry["challenger"], entry["champion"]) for entry in noted}
    before = []
    for version in registry.versions():
        decision = json.loads(version["tags"].get(DECISION, "null"))
        if decision and decision["test_sha256"] == digest and compared(decision):
            entry = note_of(decision)
            if (entry["challenger"], entry["champion"]) not in pairs:
                before.append((decision["decided_at"], entry))
    # Old decisions have no number: they are counted by time.
    counted = [entry | {"number": place} for place, (_, entry) in enumerate(sorted(before, key=lambda one: one[0]), 1)]
    return sorted([*counted, *noted], key=lambda entry: entry["number"])


def compared(decision: dict) -> bool:
    """Whether the decision compared two models."""
    return "p_exact" in decision["numbers"]


def note_of(decision: dict) -> dict:
    numbers = decision["numbers"]
    return {
        "number": numbers.get("number", 1),
        "challenger": decision["challenger"],
        "champion": decision["champion"],
        "images": numbers["test_images"],
        "differing": numbers["wins"] + numbers["losses"],
    }


def number_of(registry: Registry, digest: str, challenger: str, champion: str | None) -> int:
    """The number of a decision that is about to be made. The same two models keep the number that they had."""
    entries = on(registry, digest)
    for entry in entries:
        if (entry["challenger"], entry["champion"]) == (challenger, champion):
            return entry["number"]
    return next_number(entries)


def next_number(entries: list[dict]) -> int:
    return max([len(entries), *(entry["number"] for entry in entries)]) + 1


def note(registry: Registry, decision: dict) -> None:
    """Records a decision, if it compared two models.

    Raises:
        UnavailableError: another decision took its number meanwhile, or MLflow does not answer.
    """
    if not compared(decision):
        return
    name, entry = f"{NOTE}{decision['test_sha256'][:DIGITS]}.{decision['numbers']['number']}", note_of(decision)
    there = json.loads(registry.describe()[1].get(name, "null"))
    if there and (there["challenger"], there["champion"]) != (entry["challenger"], entry["champion"]):
        raise UnavailableError(
            f"another decision on the test images of {registry.dataset} was recorded at the same moment: try again"
        )
    registry.set_tag(name, json.dumps(entry))


def outlook(entries: list[dict], alpha: float) -> dict:
    """What the next decision on the same test images needs.

    Args:
        entries: the decisions so far, see `on`.
        alpha: gate.alpha.

    Returns:
        decisions: how many there were.
        number, alpha: of the next decision.
        worn: whether a gain now has to be twice as large to be found as at the first decision.
        After the first decision also images and differing, of the last one;
        wins: how many of as many differing images the next challenger has to win; None if even all are too few;
        fewest: the number of differing images that is enough if it wins them all.
    """
    number = next_number(entries)
    share = paired.share_of_alpha(alpha, number)
    found: dict[str, Any] = {"decisions": len(entries), "number": number, "alpha": share, "worn": worn(alpha, number)}
    if entries:
        last = entries[-1]
        found |= {"images": last["images"], "differing": last["differing"]}
        found["wins"] = paired.fewest_wins(last["differing"], share)
        found["fewest"] = next(count for count in itertools.count(1) if paired.mcnemar(count, 0) < share)
    return found


def worn(alpha: float, number: int) -> bool:
    def needed(number: int) -> float:
        """The gain that is needed, in standard errors."""
        return -statistics.NormalDist().inv_cdf(paired.share_of_alpha(alpha, number) / 2)

    return needed(number) > 2 * needed(1)
