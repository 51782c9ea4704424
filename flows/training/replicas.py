"""Trains the replicas of a member side by side in worker processes. This process shows and logs what they report.

A worker trains one replica at a time (`training.parallel` is processes), or several as one stacked computation. If
workers would be idle at the end, replicas are trained in turns of some epochs. The replicas of a worker that was killed
are tried once more, from their checkpoint.
"""

import math
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flows.project import paths
from flows.training import allocation, kept_results, worker_pool, worker_process
from flows.training.progress import Board
from lightning_modules.fit import Fitted

if TYPE_CHECKING:
    from flows.tracking.member_runs import Tracker
    from flows.training.interrupted import Clock


def train_replicas(
    card: dict, seeds: list[int], work: Path, *, jobs: int, devices: int, tracker: "Tracker", clock: "Clock"
) -> list[Fitted]:
    """Trains one network per seed, `jobs` at a time.

    Args:
        card: with member, dataset, recipe, settings, class_names, mean and std.
        work: folder of the replicas' checkpoints and results.
        jobs: replicas, or stacks of them, that train at a time.
        tracker: notified of every epoch.
        clock: saved at every epoch.

    Raises:
        InputError, DivergedError: as for `fit`, with member and replica in the message.
        WorkerError: a worker process ended because of an error that it printed, or two were killed at the same replica.
    """
    member = card["member"]
    work_left = allocation.unfinished_portions(card, len(seeds), work)
    begun: set[int] = set()  # replicas that have trained in this run, if only for a turn
    epochs = card["settings"]["epochs"]
    turn = math.ceil(epochs / allocation.turns(len(work_left), jobs, epochs))
    with (
        worker_pool.workers(min(jobs, len(work_left)), worker_process.serve, card, seeds, work, devices, turn) as pool,
        Board(member, len(seeds), epochs) as board,
    ):
        idle = list(pool.connections)
        for number in set(range(len(seeds))) - {number for numbers in work_left for number in numbers}:
            board.finished_before(number)
        running: dict[Connection, list[int]] = {}
        again: list[list[int]] = []

        def hand_out() -> None:
            while idle and work_left:
                connection, numbers = idle.pop(), work_left.pop(0)
                running[connection] = numbers
                try:
                    connection.send(numbers)
                except OSError:  # the worker was killed while it waited
                    lost(connection)

        def lost(connection: Connection) -> None:
            numbers = running.pop(connection)
            end = pool.reap(connection)
            if not end.killed or numbers in again:
                raise worker_pool.failed(names(member, numbers), end, twice=numbers in again)
            board.tell(f"the process that trained {names(member, numbers)} {end.how}: it is tried once more")
            again.append(numbers)
            # Last in the queue, and without a new process if others are left: the reason may be a lack of memory.
            work_left.append(numbers)
            begun.difference_update(numbers)
            if not pool.connections:
                idle.append(pool.start())

        hand_out()
        tracker.start()  # after the workers, which train while MLflow loads: a second, or more to make a new store
        while running:
            for connection in worker_pool.heard(running):
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    lost(connection)
                    continue
                if "free" in event:
                    idle.append(connection)
                    numbers = running.pop(connection)
                    if not event["finished"]:
                        work_left.append(numbers)
                    continue
                number = event["replica"]
                if "failed" in event:
                    raise event["failed"](f"{member}, replica {number}: {event['message']}")
                if "aside" in event:
                    if event["aside"] or number not in begun:
                        show_resumed(board, number, event["aside"])
                    continue
                begun.add(number)
                board.show(number, event)
                if "row" in event:
                    clock.keep()
                    tracker.epoch(number, event["row"])
            hand_out()
    return [kept_results.read_result(work, number) for number in range(len(seeds))]


def show_resumed(board: Board, number: int, aside: Path | None) -> None:
    """Says that a replica resumes from its checkpoint, or begins anew because the checkpoint was damaged.

    Args:
        aside: see `fit.Settings.report`.
    """
    if aside:
        board.restarts(number, paths.shown(aside))
    else:
        board.resumes(number)


def names(member: str, numbers: list[int]) -> str:
    return ", ".join(f"{member}-{number}" for number in numbers)
