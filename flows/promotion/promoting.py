"""Moves a dataset's champion: to the version that passed the gate, or back to the previous one.

The registry has no transactions. So one is built from single writes, each of which is atomic:

1. the decision is recorded with the challenger, as an artifact of its run and as tags of the version;
2. the move is announced in a tag of the model: from which aliases to which, and why;
3. `previous_champion` is set, then `champion`; at every moment a reader finds a champion, the old or the new one;
4. a tag records since when and why the version is champion, and the announcement is deleted.

An error or an interrupt in steps 2 to 4 is undone. If the power or the registry fails, the announcement stays, and the
next promotion or rollback finishes the move first. Before step 2 nothing has moved.

On one machine a lock lets one process move at a time. For several machines the registry would need a conditional write,
and has none. So each process first sets a tag of its own, its intent, and only then reads the others' intents: of two
processes at once, at least one sees the other and withdraws. Both may withdraw, but never do both go on. The intent is
deleted before the announcement, which blocks others as well: a process that finds neither finds the final aliases.
"""

import json

from flows.project.errors import InputError
from flows.promotion import alias_moves, decisions
from flows.tracking.mlflow_runs import TEST
from flows.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry

MOST = 50_000  # characters in a tag; a MySQL database takes 65,535


def promote(dataset: str, decision: dict) -> dict[str, str]:
    """Records the decision with the challenger and, if it says so, makes the challenger champion.

    A second call with the same decision finishes an interrupted move, and otherwise changes nothing.

    Args:
        decision: see `gate.decide`. With the key `forced`, a person's reason, the challenger is promoted even if the
            gate refused it.

    Returns:
        The version by alias: champion, previous_champion, challenger, those that exist.

    Raises:
        InputError: the champion is no longer the one that the decision was made against.
        UnavailableError: MLflow does not answer, or another promotion is under way.
    """
    wanted, against = decision["challenger"], decision["champion"]
    with alias_moves.locked_registry(dataset) as (registry, _):
        now = registry.aliases()
        if now.get(CHAMPION) == wanted:
            return now
        refuse_late(dataset, now.get(CHAMPION), against)
        record_decision(registry, decision)
        if not (decision["promote"] or decision.get("forced")):
            return now
        why = {"why": "gate" if decision["promote"] else "force", "because": because(decision)}
        return alias_moves.move(registry, now, {CHAMPION: wanted, PREVIOUS: against or now.get(PREVIOUS)}, why)


def rollback(dataset: str) -> dict[str, str]:
    """Exchanges champion and previous champion. An interrupted rollback is finished, not reversed.

    Returns:
        As for `promote`.

    Raises:
        InputError: there is no previous champion.
        UnavailableError: as for `promote`.
    """
    with alias_moves.locked_registry(dataset) as (registry, finished):
        now = registry.aliases()
        if finished == "rollback":
            return now
        champion, previous = now.get(CHAMPION), now.get(PREVIOUS)
        if previous is None or champion is None:
            raise InputError(
                f"{dataset} has no previous champion to go back to: the first promotion of another version keeps one"
            )
        if previous == champion:
            raise InputError(
                f"{PREVIOUS} of {dataset} is version {champion}, the champion itself: nothing to go back to"
            )
        why = {"why": "rollback", "because": f"version {champion} was taken back"}
        return alias_moves.move(registry, now, {CHAMPION: previous, PREVIOUS: champion}, why)


def standing(dataset: str) -> dict:
    """The state of champion and challenger. Reads only.

    Returns:
        champion, previous_champion, challenger: versions, or None.
        record: since, why ("gate", "force", "rollback"), because and instead_of, of the champion; None if it was not
            promoted here, as the first one.
        decision: the last one on the champion, or None.
        waiting: whether the challenger is not the champion and was not judged against it.
        taken_back: whether a rollback replaced the challenger by this champion.
        interrupted: the announcement of an interrupted move, or None.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    registry = Registry(dataset)
    aliases, tags = registry.describe()
    champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
    record = record_of(tags, champion)
    waiting = False
    if challenger is not None and challenger != champion:
        judged = decision_on(registry, challenger)
        waiting = not judged or judged["champion"] != champion
    return {
        "champion": champion,
        "previous_champion": aliases.get(PREVIOUS),
        "challenger": challenger,
        "record": record,
        "decision": decision_on(registry, champion) if champion else None,
        "waiting": waiting,
        "taken_back": challenger is not None and is_taken_back(record, challenger),
        "interrupted": alias_moves.announcement(tags),
    }


def outlook(dataset: str, champion: str, alpha: float) -> dict:
    """What the next decision on the champion's test images needs, see `decisions.outlook`. Reads only.

    Args:
        champion: a version.
        alpha: gate.alpha.
    """
    registry = Registry(dataset)
    digest = registry.version(champion)["tags"].get(TEST, "none")
    return decisions.outlook(decisions.on(registry, digest), alpha)


def record_of(tags: dict[str, str], champion: str | None) -> dict | None:
    """Since when and why the version is champion, from the model's tags; None if it was not promoted here."""
    record = json.loads(tags.get(alias_moves.RECORD, "null"))
    return record if record and record["version"] == champion else None


def is_taken_back(record: dict | None, version: str) -> bool:
    """Whether the champion of this record is champion because of a rollback of `version`."""
    return record is not None and record["why"] == "rollback" and record["instead_of"] == version


def decision_on(registry: Registry, version: str) -> dict | None:
    """The last decision on a version, or None."""
    return json.loads(registry.version(version)["tags"].get(decisions.DECISION, "null"))


def because(decision: dict) -> str:
    """Why a version was promoted, in at most 1000 characters."""
    return (decision.get("forced") or "; ".join(decision["reasons"]))[:1000]


def refuse_late(dataset: str, champion: str | None, against: str | None) -> None:
    """Raises InputError if the champion is not the one that the decision was made against."""
    if champion != against:
        was = f"version {against}" if against else "none"
        now = f"version {champion}" if champion else "none"
        raise InputError(
            f"the champion of {dataset} is {now} by now, and was {was} when this was decided: nothing is promoted; "
            "`trainyard promote` decides again"
        )


def record_decision(registry: Registry, decision: dict) -> None:
    """Writes the decision to the challenger's version and run. The tag with the whole decision comes last."""
    decisions.note(registry, decision)
    version = decision["challenger"]
    stamp = decision["decided_at"].replace(":", "").replace("+0000", "Z")
    registry.log_json(
        registry.version(version)["run_id"], f"gate/{stamp}-against-{decision['champion']}.json", decision
    )
    for name, value in tags_of(decision).items():
        registry.set_version_tag(version, f"trainyard.gate.{name}", value)
    whole = json.dumps(decision, ensure_ascii=False)
    if len(whole) > MOST:  # there are hundreds of classes; the artifact has them all
        numbers = {name: value for name, value in decision["numbers"].items() if name != "classes"}
        whole = json.dumps(decision | {"numbers": numbers}, ensure_ascii=False)
    registry.set_version_tag(version, decisions.DECISION, whole)


def tags_of(decision: dict) -> dict[str, str]:
    """The parts of a decision that a person wants to see in a version's tags, or to search for."""
    numbers = decision["numbers"]
    accuracy = numbers.get("accuracy", {})
    found = {
        "verdict": decision["verdict"],
        "forced": decision.get("forced"),
        "against": decision["champion"],
        "reasons": "; ".join(decision["reasons"])[:5000],
        "accuracy": accuracy.get("challenger"),
        "accuracy_of_champion": accuracy.get("champion"),
        "difference": numbers.get("difference"),
        "number": numbers.get("number"),
        "alpha": numbers.get("alpha"),
        "p": numbers.get("p_exact"),
        "interval": numbers.get("interval"),
        "ece_increase": numbers.get("ece_increase"),
        "latency_ms": numbers.get("latency_ms", {}).get("challenger"),
        "decided_at": decision["decided_at"],
    }
    return {name: "none" if value is None else str(value) for name, value in found.items()}
