"""Moves a dataset's champion: to the version that the gate let pass, or back to the one before.

The registry knows no transaction over several writes, so one is built from single ones, each of which it does whole:

1. the decision is recorded with the challenger: an artifact of its run, tags of the version;
2. the move is announced in a tag of the model: from which aliases to which, and why;
3. `previous_champion` is set, then `champion`; each reader finds a whole champion at every moment, the old or the new;
4. a tag records since when and why it is champion, and the announcement goes.

An error or an interrupt in 2 to 4 is undone. What neither ends nor is undone, since the power or the registry is gone,
is found by the announcement, and the next promotion or rollback finishes it first; before 2 nothing has moved.

Two on one machine take turns by a lock. The registry has no conditional write that would hold off another machine. So
each first sets a tag of its own, its intent, and only then looks for those of others: of two at once, one at least sees
the other, and withdraws. Both may; never do both go on. The intent goes before the announcement, which holds off
others as well, so that whoever finds neither finds the aliases as they stay.
"""

import json

from flows.project.errors import InputError
from flows.promotion import alias_moves, decisions
from flows.tracking.mlflow_runs import TEST
from flows.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry

MOST = 50_000  # characters of a tag; a MySQL database takes 65,535


def promote(dataset: str, decision: dict) -> dict[str, str]:
    """Records the decision with the challenger and, where it says so, makes that the champion.

    Asked again with the same decision it finishes what was interrupted, and otherwise changes nothing.

    Args:
        decision: see `gate.decide`. With `forced`, the reason of whoever wants it, the challenger is promoted
            although the gate refused it.

    Returns:
        The version by alias: champion, previous_champion, challenger, as far as there are any.

    Raises:
        InputError: the champion is no longer the one that the decision was made against.
        UnavailableError: MLflow does not answer, or another promotion is under way.
    """
    wanted, against = decision["challenger"], decision["champion"]
    with alias_moves.at_work(dataset) as (registry, _):
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
    """Lets champion and previous champion change places. An interrupted rollback is finished, not turned round.

    Returns:
        As `promote`.

    Raises:
        InputError: there is no previous champion.
        UnavailableError: see `promote`.
    """
    with alias_moves.at_work(dataset) as (registry, finished):
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
    """Who is champion, and what waits. Reads only.

    Returns:
        champion, previous_champion and challenger: versions, or None; record: since, why ("gate", "force",
        "rollback"), because and instead_of, None for a champion that nobody promoted here, such as the first;
        decision: the last one on the champion, or None; waiting: whether the challenger is not champion and was not
        judged against this champion; taken_back: whether this champion is there because somebody took the challenger
        out of service; interrupted: the announcement of a move that did not end, or None.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    registry = Registry(dataset)
    aliases, tags = registry.describe()
    champion, challenger = aliases.get(CHAMPION), aliases.get(CHALLENGER)
    record = record_of(tags, champion)
    waiting = challenger is not None and challenger != champion
    if waiting:
        judged = decision_on(registry, challenger)
        waiting = not judged or judged["champion"] != champion
    return {
        "champion": champion,
        "previous_champion": aliases.get(PREVIOUS),
        "challenger": challenger,
        "record": record,
        "decision": decision_on(registry, champion) if champion else None,
        "waiting": waiting,
        "taken_back": challenger is not None and took_back(record, challenger),
        "interrupted": alias_moves.announcement(tags),
    }


def outlook(dataset: str, champion: str, alpha: float) -> dict:
    """What the test images of the champion, a version, have served for: see `decisions.outlook`. Reads only."""
    registry = Registry(dataset)
    digest = registry.version(champion)["tags"].get(TEST, "none")
    return decisions.outlook(decisions.on(registry, digest), alpha)


def record_of(tags: dict[str, str], champion: str | None) -> dict | None:
    """Since when and why the version is champion, by the model's tags; None where it was made so elsewhere."""
    record = json.loads(tags.get(alias_moves.RECORD, "null"))
    return record if record and record["version"] == champion else None


def took_back(record: dict | None, version: str) -> bool:
    """Whether a champion with this record is there because somebody took that version out of service."""
    return bool(record) and record["why"] == "rollback" and record["instead_of"] == version


def decision_on(registry: Registry, version: str) -> dict | None:
    """The last decision on a version."""
    return json.loads(registry.version(version)["tags"].get(decisions.DECISION, "null"))


def because(decision: dict) -> str:
    """Why a version was promoted, in at most 1000 characters."""
    return (decision.get("forced") or "; ".join(decision["reasons"]))[:1000]


def refuse_late(dataset: str, champion: str | None, against: str | None) -> None:
    """Raises InputError unless the champion is the one that a decision was made against."""
    if champion != against:
        was = f"version {against}" if against else "none"
        now = f"version {champion}" if champion else "none"
        raise InputError(
            f"the champion of {dataset} is {now} by now, and was {was} when this was decided: nothing is promoted; "
            "`trainyard promote` decides again"
        )


def record_decision(registry: Registry, decision: dict) -> None:
    """Writes the decision to the challenger's version and run. The tag that holds all of it comes last."""
    decisions.note(registry, decision)
    version = decision["challenger"]
    stamp = decision["decided_at"].replace(":", "").replace("+0000", "Z")
    registry.attach(registry.version(version)["run_id"], f"gate/{stamp}-against-{decision['champion']}.json", decision)
    for name, value in tags_of(decision).items():
        registry.tag(version, f"trainyard.gate.{name}", value)
    whole = json.dumps(decision, ensure_ascii=False)
    if len(whole) > MOST:  # hundreds of classes: they are in the artifact
        numbers = {name: value for name, value in decision["numbers"].items() if name != "classes"}
        whole = json.dumps(decision | {"numbers": numbers}, ensure_ascii=False)
    registry.tag(version, decisions.DECISION, whole)


def tags_of(decision: dict) -> dict[str, str]:
    """What a person wants to see, or search for, in a version's tags."""
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
