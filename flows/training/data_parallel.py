"""Trains the replicas of a member one after another, each by several processes that divide its mini-batches.

Rank 0 tells the other processes what to train, reports and writes. The command that started rank 0 leads: it receives
the reports, shows and logs them. The commands on other nodes only watch their processes.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flows.machine import hardware
from flows.project.errors import InputError
from flows.training.allocation import unfinished_portions
from flows.training.kept_results import checkpoint_file, read_result, write_result
from flows.training.launch import Launch
from flows.training.progress import Board
from flows.training.replicas import show_resumed
from flows.training.worker_pool import End, failed, heard, workers
from flows.training.worker_process import die_with_parent, failure, given_to_fit, train_portion
from lightning_modules.fit import Fitted

if TYPE_CHECKING:
    from flows.tracking.member_runs import Tracker
    from flows.training.interrupted import Clock


def train_divided(
    card: dict,
    seeds: list[int],
    work: Path,
    *,
    launch: Launch,
    tracker: "Tracker | None" = None,
    clock: "Clock | None" = None,
) -> list[Fitted]:
    """Trains one network per seed. Returns the results, or an empty list if another command leads.

    Args:
        card, seeds, work: as for `replicas.train_replicas`; `work` is the same folder for all nodes.
        launch: which processes this command starts.
        tracker, clock: notified of every epoch, in the command that leads.

    Raises:
        InputError, DivergedError: as for `fit`.
        WorkerError: a process ended because of an error that it printed, or was killed; if this command starts all
            processes, for the second time.
    """
    member, replicas = card["member"], len(seeds)
    # A command that starts all processes can start them again, from the last checkpoint.
    tries = 2 if not launch.by and launch.nodes == 1 else 1
    board = Board(member, replicas, card["settings"]["epochs"]) if launch.leads else None
    with board or nullcontext():
        for number in range(1, tries + 1):
            end = attempt(card, seeds, work, launch, board, tracker, clock, first=number == 1)
            if end is None:
                break
            if not end.killed or number == tries:
                raise failed(member, end, twice=number > 1)
            if board:
                board.tell(f"a process that trained {member} {end.how}: it is tried once more")
    return [read_result(work, number) for number in range(replicas)] if launch.leads else []


def attempt(
    card: dict,
    seeds: list[int],
    work: Path,
    launch: Launch,
    board: Board | None,
    tracker: "Tracker | None",
    clock: "Clock | None",
    *,
    first: bool,
) -> End | None:
    """Trains the unfinished portions once. Returns how a process ended too early; None if all have finished.

    Args:
        first: whether this is the first try.
    """
    member, replicas = card["member"], len(seeds)
    left = unfinished_portions(card, replicas, work) if launch.leads else []
    count = len(launch.local_ranks)
    with (
        meeting_place(launch) as meeting,
        workers(count, process_main, card, seeds, work, left, launch, meeting, again=not first) as pool,
    ):
        training = pool.connections
        if board and tracker:
            for number in set(range(replicas)) - {number for numbers in left for number in numbers}:
                board.finished_before(number)
            if first:
                tracker.start()
        while training:
            for connection in heard(training):
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    ends = [pool.reap(connection)]
                    # A killed process takes the others along, and their ends may be noticed before its own.
                    ends += [pool.reap(other) for other in pool.connections if pool.is_dead(other)]
                    return next((end for end in ends if end.killed), ends[0])
                if "free" in event:
                    training.remove(connection)
                elif "failed" in event:
                    raise event["failed"](f"{member}, replica {event['replica']}: {event['message']}")
                elif not (board and tracker and clock):
                    raise AssertionError(f"only the command that leads hears from the first process: {event}")
                elif "aside" in event:
                    show_resumed(board, event["replica"], event["aside"])
                else:
                    board.show(event["replica"], event)
                    if "row" in event:
                        clock.keep()
                        tracker.epoch(event["replica"], event["row"])
    return None


@contextmanager
def meeting_place(launch: Launch) -> Iterator[Path | None]:
    """The file by which the processes find each other, see `ProcessGroup`; None if other commands start some of them.

    It lies in a folder on this machine's own disk that only this user can enter.
    """
    if launch.by or launch.nodes > 1:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        yield Path(folder, "meeting")


def process_main(
    connection: Connection,
    place: int,
    card: dict,
    seeds: list[int],
    work: Path,
    left: list[list[int]],
    launch: Launch,
    meeting: Path | None,
) -> None:
    """The main function of one of the processes.

    Args:
        connection: to the command that started it.
        place: index of this process among those that the command starts.
        left: the portions to train; only the command that leads knows them.
        meeting: see `ProcessGroup`.
    """
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    os.environ.update(launch.variables)
    os.environ["LOCAL_RANK"] = str(launch.local_ranks[place])
    if card["settings"]["accelerator"] == "cpu":
        hardware.hide_gpus()

    from lightning_modules.distributed import ProcessGroup

    numbers: list[int] = [0]

    def tell(event: dict) -> None:
        try:
            connection.send(event | {"replica": numbers[event["replica"]]} if "replica" in event else event)
        except OSError:  # nobody listens any more
            os._exit(143)

    try:
        group = ProcessGroup(launch.by, card["settings"]["accelerator"], launch.devices, launch.nodes, meeting)
        if len(set(group.all(work.name))) > 1:
            raise InputError("the nodes that train together differ in params.yaml, data, code or hardware")
        for numbers in group.told(left):
            given = given_to_fit(card) | {
                "device": group.local_rank,
                "checkpoint": checkpoint_file(work, numbers),
                "report": tell,
                "group": group,
            }
            results = train_portion(card["recipe"], [seeds[number] for number in numbers], given)
            if group.rank == 0:
                for position, result in enumerate(results):
                    write_result(work, numbers[position], result)
                    tell({"finished": True, "best_epoch": result.best_epoch, "replica": position})
                given["checkpoint"].unlink(missing_ok=True)
    except Exception as error:  # `failure` raises it again, unless it can be said in a sentence
        tell(failure(error))
        return
    group.leave()
    tell({"free": True})
