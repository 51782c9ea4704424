"""Moves of the champion's aliases, whole or not at all.

Each is announced first; one that was killed in between is finished or undone by the next.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from flows.machine import identity
from flows.project import paths
from flows.project.errors import InputError, UnavailableError, our_mistake
from flows.tracking.provenance import TAG
from flows.tracking.registry import CHAMPION, PREVIOUS, Registry

MOVE = "trainyard.move"  # tag of the model: the announcement
INTENT = "trainyard.intent."  # start of a tag of the model for each process that wants to move: who it is
RECORD = "trainyard.champion"  # tag of the model: since when, why and instead of which version it is champion
# Seconds that a lock is waited for, and that a tag of another machine says that it is at work: the machines' clocks
# have to agree better than that.
PATIENCE = 60


def announcement(tags: dict[str, str]) -> dict | None:
    return json.loads(tags.get(MOVE, "null"))


@contextmanager
def at_work(dataset: str) -> Iterator[tuple[Registry, str | None]]:
    """Holds this machine's lock on the dataset's aliases, and finishes what was interrupted; yields the registry and
    why ("gate", "force", "rollback") the interrupted one moved, None without one.

    Raises:
        UnavailableError: another promotion is under way, or MLflow does not answer.
    """
    paths.state_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.state_folder() / f"promotion-{dataset}.lock", timeout=PATIENCE)
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
    return identity.this_process(TAG) | {"time": time.time()}


def own_intent() -> str:
    return f"{INTENT}{socket.gethostname()}-{os.getpid()}"


def under_way(by: dict) -> bool:
    """Whether the process that an intent or an announcement names may still be at it."""
    if not identity.is_of_this_machine(by, TAG):
        return abs(time.time() - by["time"]) < PATIENCE  # a clock that is ahead must not hold off others for ever
    return by["trainyard.pid"] != str(os.getpid()) and identity.is_alive(by, TAG)


def at_it(registry: Registry, by: dict) -> UnavailableError:
    return UnavailableError(
        f"another promotion of {registry.dataset} is under way on {by['trainyard.host']}: try again in a minute"
    )


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
    except Exception as error:  # raised again
        try:
            undo(registry, move)
        except UnavailableError:
            if our_mistake(error):
                raise error from None
            raise UnavailableError(
                f"the move of {registry.dataset}'s champion from version {now.get(CHAMPION)} to {after[CHAMPION]} was "
                f"interrupted ({error}). One of the two is champion; the next `trainyard promote` or "
                "`trainyard rollback` finishes it"
            ) from None
        if isinstance(error, UnavailableError):
            raise UnavailableError(f"{error}. Nothing is promoted: the champion is as it was") from None
        raise
    except BaseException:  # an interrupt
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
    except BaseException:  # an interrupt as well
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
