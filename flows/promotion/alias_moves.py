"""Moves the aliases of champion and previous champion, whole or not at all.

A move is announced before it starts. If it is killed, the next one finishes or undoes it first.
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

MOVE = "trainyard.move"  # tag of the model: the announced move
INTENT = "trainyard.intent."  # prefix of a tag of the model, one per process that wants to move: who it is
RECORD = "trainyard.champion"  # tag of the model: since when, why and instead of which version this one is champion
# Seconds to wait for the lock, and for which a tag of another machine counts as alive. The clocks of the machines have
# to agree better than that.
PATIENCE = 60


def announcement(tags: dict[str, str]) -> dict | None:
    return json.loads(tags.get(MOVE, "null"))


@contextmanager
def locked_registry(dataset: str) -> Iterator[tuple[Registry, str | None]]:
    """Holds this machine's lock on the dataset's aliases, and finishes an interrupted move.

    Yields:
        The registry, and why the interrupted move was made ("gate", "force", "rollback"); None if there was none.

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
    """Finishes an announced move, or undoes it if that is impossible. Returns why it was made; None without a move."""
    _, tags = registry.describe()
    left = announcement(tags)
    if not left:
        return None
    if under_way(left["by"]):
        raise under_way_error(registry, left["by"])
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
    """Whether the process `by` of an intent or announcement may still be working on it."""
    if not identity.is_of_this_machine(by, TAG):
        return abs(time.time() - by["time"]) < PATIENCE  # abs: a clock that is ahead must not block others for ever
    return by["trainyard.pid"] != str(os.getpid()) and identity.is_alive(by, TAG)


def under_way_error(registry: Registry, by: dict) -> UnavailableError:
    return UnavailableError(
        f"another promotion of {registry.dataset} is under way on {by['trainyard.host']}: try again in a minute"
    )


def move(registry: Registry, now: dict[str, str], after: dict[str, str | None], why: dict[str, str]) -> dict[str, str]:
    """Moves champion and previous champion, whole or not at all. Returns all aliases.

    Args:
        now: the version by alias, before the move.
        after: the versions of champion and previous_champion after it.
        why: "why" and "because", for the record.

    Raises:
        UnavailableError: another process is moving, or MLflow does not answer. The message says what holds now.
        InputError: as for `finish`.
    """
    move = {
        "before": {CHAMPION: now.get(CHAMPION), PREVIOUS: now.get(PREVIOUS)},
        "after": after,
        "record": registry.describe()[1].get(RECORD),  # for `undo`
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
    """Announces a move, unless another process is moving.

    Args:
        left: an announcement of an interrupted move, which this one replaces.

    Raises:
        UnavailableError: another process is moving or has just moved, or MLflow does not answer.
    """
    try:
        # Set the intent before reading the others, never after: see `flows.promotion.promoting`.
        registry.set_tag(own_intent(), json.dumps(move["by"]))
        now, tags = registry.describe()
        others = {name: json.loads(value) for name, value in tags.items() if name.startswith(INTENT)}
        others.pop(own_intent(), None)
        for by in others.values():
            if under_way(by):
                raise under_way_error(registry, by)
        moved = left is None and any(now.get(name) != move["before"][name] for name in (CHAMPION, PREVIOUS))
        if moved or announcement(tags) != left:
            raise UnavailableError(f"another process moved {registry.dataset}'s champion at the same moment: try again")
        for name in others:  # intents of processes that died
            registry.set_tag(name, None)
        registry.set_tag(MOVE, json.dumps(move, ensure_ascii=False))
    except BaseException:  # an interrupt as well
        undo_interrupted(registry, move)
        raise


def undo_interrupted(registry: Registry, move: dict) -> None:
    """Undoes a move after an error, so that others do not wait for as long as this process lives.

    Raises nothing if MLflow does not answer: the first error says more, and the next promotion finds what is left.
    """
    with suppress(UnavailableError):
        undo(registry, move)


def finish(registry: Registry, move: dict) -> dict[str, str]:
    """Does the rest of an announced move, and returns all aliases.

    Raises:
        InputError: somebody else moved the aliases meanwhile, the version is gone, or another process took the move
            over.
    """
    after = move["after"]
    registry.version(after[CHAMPION])
    # The champion comes last, so that there is a way back from it at every moment.
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
            registry.set_alias(alias, after[alias])
    record = {"version": after[CHAMPION], "instead_of": move["before"][CHAMPION]}
    record |= {name: move[name] for name in ("since", "why", "because")}
    registry.set_tag(RECORD, json.dumps(record, ensure_ascii=False))
    now = registry.aliases()
    if any(now.get(name) != after[name] for name in (PREVIOUS, CHAMPION)):
        raise InputError(
            f"somebody else moved {registry.dataset}'s champion at the same moment: it is version {now.get(CHAMPION)}"
        )
    registry.set_tag(own_intent(), None)
    registry.set_tag(MOVE, None)
    return now


def undo(registry: Registry, move: dict) -> None:
    """Takes back an announced move, as far as it is done. Leaves the aliases alone if somebody else made another
    version champion, or has taken the move over."""
    before, after = move["before"], move["after"]
    now, tags = registry.describe()
    own = announcement(tags) == move
    if own and now.get(CHAMPION) in (before[CHAMPION], after[CHAMPION]):
        for alias in (CHAMPION, PREVIOUS):
            if now.get(alias) == after[alias] != before[alias]:
                registry.set_alias(alias, before[alias])
        if tags.get(RECORD) != move["record"]:
            registry.set_tag(RECORD, move["record"])
    if own_intent() in tags:
        registry.set_tag(own_intent(), None)
    if own:
        registry.set_tag(MOVE, None)
