"""The gate's decisions on the same test images: how many there were, and what that asks of the next one.

Each decision is noted in a tag of the registered model, so that it counts also after its versions are deleted. Those
that were made before there were such tags count by what their versions' tags say.
"""

import itertools
import json
import statistics

from flows.project.errors import UnavailableError
from flows.statistics import paired
from flows.tracking.registry import Registry

DECISION = "trainyard.gate.decision"  # tag of a version: all of the last decision on it
NOTE = "trainyard.gate.on."  # start of a tag of the model for each decision: the test images' digest and its number
DIGITS = 16  # of the digest


def on(registry: Registry, digest: str) -> list[dict]:
    """The decisions that compared two models on the test images, in their order.

    Args:
        digest: of the test images.

    Returns:
        Of each its number, from 1; challenger and champion; images, of the test split; differing, how many of them one
        of the two alone had right.

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
    # Older ones have no number of their own.
    counted = [entry | {"number": place} for place, (_, entry) in enumerate(sorted(before, key=lambda one: one[0]), 1)]
    return sorted([*counted, *noted], key=lambda entry: entry["number"])


def compared(decision: dict) -> bool:
    """Whether both models were asked."""
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
    """Of a decision that is about to be made: asked again, the same two have the number that they had."""
    entries = on(registry, digest)
    for entry in entries:
        if (entry["challenger"], entry["champion"]) == (challenger, champion):
            return entry["number"]
    return following(entries)


def following(entries: list[dict]) -> int:
    return max([len(entries), *(entry["number"] for entry in entries)]) + 1


def note(registry: Registry, decision: dict) -> None:
    """Notes a decision, where it compared two models.

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
    registry.note(name, json.dumps(entry))


def outlook(entries: list[dict], alpha: float) -> dict:
    """What the next decision on the test images of these ones needs.

    Args:
        entries: see `on`.
        alpha: gate.alpha.

    Returns:
        decisions, how many there were; number of the next one and its alpha; where there was one before, images and
        differing of the last one, and wins, how many of as many differing images the next challenger has to have
        right, None where all are too few; fewest, how many differing images are enough where it wins them all; worn,
        whether a gain has to be twice as large by now as at the first decision to be found.
    """
    number = following(entries)
    share = paired.share_of_alpha(alpha, number)
    found = {"decisions": len(entries), "number": number, "alpha": share, "worn": worn(alpha, number)}
    if entries:
        last = entries[-1]
        found |= {"images": last["images"], "differing": last["differing"]}
        found["wins"] = paired.fewest_wins(last["differing"], share)
        found["fewest"] = next(count for count in itertools.count(1) if paired.mcnemar(count, 0) < share)
    return found


def worn(alpha: float, number: int) -> bool:
    def needed(number: int) -> float:
        """Standard errors that a gain has to have."""
        return -statistics.NormalDist().inv_cdf(paired.share_of_alpha(alpha, number) / 2)

    return needed(number) > 2 * needed(1)
