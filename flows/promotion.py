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
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psutil
from filelock import FileLock, Timeout

from flows import decisions, project
from flows.registry import PREVIOUS, Registry
from flows.tracking import CHALLENGER, CHAMPION, TEST, alive
from lightning_modules.errors import InputError, UnavailableError

MOVE = "trainyard.move"  # tag of the model: the announcement
INTENT = "trainyard.intent."  # start of a tag of the model for each process that wants to move: who it is
RECORD = "trainyard.champion"  # tag of the model: since when, why and instead of which version it is champion
MOST = 50_000  # characters of that tag; a MySQL database takes 65,535
# Seconds that a lock is waited for, and that a tag of another machine says that it is at work: the machines' clocks
# have to agree better than that.
PATIENCE = 60


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
    with at_work(dataset) as (registry, _):
        now = registry.aliases()
        if now.get(CHAMPION) == wanted:
            return now
        refuse_late(dataset, now.get(CHAMPION), against)
        record_decision(registry, decision)
        if not (decision["promote"] or decision.get("forced")):
            return now
        why = {"why": "gate" if decision["promote"] else "force", "because": because(decision)}
        return move(registry, now, {CHAMPION: wanted, PREVIOUS: against or now.get(PREVIOUS)}, why)


def rollback(dataset: str) -> dict[str, str]:
    """Lets champion and previous champion change places. An interrupted rollback is finished, not turned round.

    Returns:
        As `promote`.

    Raises:
        InputError: there is no previous champion.
        UnavailableError: see `promote`.
    """
    with at_work(dataset) as (registry, finished):
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
        return move(registry, now, {CHAMPION: previous, PREVIOUS: champion}, why)


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
        "interrupted": announcement(tags),
    }


def outlook(dataset: str, champion: str, alpha: float) -> dict:
    """What the test images of the champion, a version, have served for: see `decisions.outlook`. Reads only."""
    registry = Registry(dataset)
    digest = registry.version(champion)["tags"].get(TEST, "none")
    return decisions.outlook(decisions.on(registry, digest), alpha)


def record_of(tags: dict[str, str], champion: str | None) -> dict | None:
    """Since when and why the version is champion, by the model's tags; None where it was made so elsewhere."""
    record = json.loads(tags.get(RECORD, "null"))
    return record if record and record["version"] == champion else None


def took_back(record: dict | None, version: str) -> bool:
    """Whether a champion with this record is there because somebody took that version out of service."""
    return bool(record) and record["why"] == "rollback" and record["instead_of"] == version


def decision_on(registry: Registry, version: str) -> dict | None:
    """The last decision on a version."""
    return json.loads(registry.version(version)["tags"].get(decisions.DECISION, "null"))


def announcement(tags: dict[str, str]) -> dict | None:
    return json.loads(tags.get(MOVE, "null"))


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


@contextmanager
def at_work(dataset: str) -> Iterator[tuple[Registry, str | None]]:
    """Holds this machine's lock on the dataset's aliases, and finishes what was interrupted; yields the registry and
    why ("gate", "force", "rollback") the interrupted one moved, None without one.

    Raises:
        UnavailableError: another promotion is under way, or MLflow does not answer.
    """
    project.state_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(project.state_folder() / f"promotion-{dataset}.lock", timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise UnavailableError(f"another promotion of {dataset} is under way on this machine: try again") from None
    try:
        registry = Registry(dataset)
        yield registry, resume(registry)
    finally:
        lock.release()


def resume(registry: Registry) -> str | None:
    """Finishes an announced move, or undoes it where that cannot be; returns why it moved, None where it did not."""
    _, tags = registry.describe()
    left = announcement(tags)
    if not left:
        return None
    if under_way(left["by"]):
        raise at_it(registry, left["by"])
    move = left | {"by": this_process()}
    begin(registry, move, left)
    try:
        finish(registry, move)
    except UnavailableError:
        raise
    except InputError:  # somebody moved the aliases since, or the version is gone
        undo(registry, move)
        return None
    return move["why"]


def this_process() -> dict:
    return {
        "trainyard.host": socket.gethostname(),
        "trainyard.pid": str(os.getpid()),
        "trainyard.process_started": str(psutil.Process().create_time()),
        "time": time.time(),
    }


def own_intent() -> str:
    return f"{INTENT}{socket.gethostname()}-{os.getpid()}"


def under_way(by: dict) -> bool:
    """Whether the process that an intent or an announcement names may still be at it."""
    if by["trainyard.host"] != socket.gethostname():
        return abs(time.time() - by["time"]) < PATIENCE  # a clock that is ahead must not hold off others for ever
    return by["trainyard.pid"] != str(os.getpid()) and alive(by)


def at_it(registry: Registry, by: dict) -> UnavailableError:
    return UnavailableError(
        f"another promotion of {registry.dataset} is under way on {by['trainyard.host']}: try again in a minute"
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


def move(registry: Registry, now: dict[str, str], after: dict[str, str | None], why: dict[str, str]) -> dict[str, str]:
    """Announces a move of champion and previous champion, and does it whole or not at all.

    Args:
        now: the aliases as they are.
        after: champion and previous_champion as they shall be.
        why: why and because, for the record.
    """
    move = {
        "before": {CHAMPION: now.get(CHAMPION), PREVIOUS: now.get(PREVIOUS)},
        "after": after,
        "record": registry.describe()[1].get(RECORD),  # to put back
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        **why,
        "by": this_process(),
    }
    begin(registry, move, None)
    try:
        return finish(registry, move)
    except Exception as error:
        try:
            undo(registry, move)
        except UnavailableError:
            raise UnavailableError(
                f"the move of {registry.dataset}'s champion from version {now.get(CHAMPION)} to {after[CHAMPION]} was "
                f"interrupted ({error}). One of the two is champion; the next `trainyard promote` or "
                "`trainyard rollback` finishes it"
            ) from None
        if isinstance(error, UnavailableError):
            raise UnavailableError(f"{error}. Nothing is promoted: the champion is as it was") from None
        raise
    except BaseException:
        undo_interrupted(registry, move)
        raise


def begin(registry: Registry, move: dict, left: dict | None) -> None:
    """Announces a move, unless another process is at one.

    Args:
        left: an announcement that was left behind, which this one takes the place of.

    Raises:
        UnavailableError: another process is at it or was just now, or MLflow does not answer.
    """
    try:
        # Before the look at what there is, never after it: see above.
        registry.note(own_intent(), json.dumps(move["by"]))
        now, tags = registry.describe()
        others = {name: json.loads(value) for name, value in tags.items() if name.startswith(INTENT)}
        others.pop(own_intent(), None)
        for by in others.values():
            if under_way(by):
                raise at_it(registry, by)
        moved = left is None and any(now.get(name) != move["before"][name] for name in (CHAMPION, PREVIOUS))
        if moved or announcement(tags) != left:
            raise UnavailableError(f"another process moved {registry.dataset}'s champion at the same moment: try again")
        for name in others:  # of processes that died
            registry.note(name, None)
        registry.note(MOVE, json.dumps(move, ensure_ascii=False))
    except BaseException:
        undo_interrupted(registry, move)
        raise


def undo_interrupted(registry: Registry, move: dict) -> None:
    """Undoes what can be, so that nobody waits for this process for as long as it lives. Where the registry is away
    as well, the reason why the move ended says more than that, and the next promotion finds what is left."""
    with suppress(UnavailableError):
        undo(registry, move)


def finish(registry: Registry, move: dict) -> dict[str, str]:
    """Does what of an announced move is not done yet; returns the aliases.

    Raises:
        InputError: the aliases are neither as before nor as after it, the version is gone, or another process has
            finished it.
    """
    after = move["after"]
    registry.version(after[CHAMPION])
    # The champion last: with it stands its way back.
    for alias in (PREVIOUS, CHAMPION):
        now, tags = registry.describe()
        if announcement(tags) != move:
            raise InputError(
                f"this took more than {PATIENCE} seconds, and another process has gone on with the move of "
                f"{registry.dataset}'s champion: see `trainyard champion`"
            )
        for name in (PREVIOUS, CHAMPION):
            if now.get(name) not in (move["before"][name], after[name]):
                raise InputError(
                    f"somebody else made version {now.get(name)} the {name} of {registry.dataset} meanwhile: "
                    "nothing is moved"
                )
        if now.get(alias) != after[alias]:
            registry.point(alias, after[alias])
    record = {"version": after[CHAMPION], "instead_of": move["before"][CHAMPION]}
    record |= {name: move[name] for name in ("since", "why", "because")}
    registry.note(RECORD, json.dumps(record, ensure_ascii=False))
    now = registry.aliases()
    if any(now.get(name) != after[name] for name in (PREVIOUS, CHAMPION)):
        raise InputError(
            f"somebody else moved {registry.dataset}'s champion at the same moment: it is version {now.get(CHAMPION)}"
        )
    registry.note(own_intent(), None)
    registry.note(MOVE, None)
    return now


def undo(registry: Registry, move: dict) -> None:
    """Takes back what of an announced move is done; all stays where somebody else made another version champion, or
    has taken the move over."""
    before, after = move["before"], move["after"]
    now, tags = registry.describe()
    own = announcement(tags) == move
    if own and now.get(CHAMPION) in (before[CHAMPION], after[CHAMPION]):
        for alias in (CHAMPION, PREVIOUS):
            if now.get(alias) == after[alias] != before[alias]:
                registry.point(alias, before[alias])
        if tags.get(RECORD) != move["record"]:
            registry.note(RECORD, move["record"])
    if own_intent() in tags:
        registry.note(own_intent(), None)
    if own:
        registry.note(MOVE, None)
