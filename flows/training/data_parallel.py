"""Trains the replicas of a member one after another, each by several processes that divide its mini-batches.

The first process of all tells the others what to train, reports and writes; the command that has started it listens,
shows and logs. The commands on other nodes only watch over their processes.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flows.machine import hardware
from flows.project.errors import InputError
from flows.training.allocation import unfinished_portions
from flows.training.kept_results import checkpoint_file, read_result, write_result
from flows.training.launch import Launch
from flows.training.progress import Board
from flows.training.replicas import tell_beginning
from flows.training.worker_pool import End, failed, workers
from flows.training.worker_process import die_with_parent, failure, given_to_fit, train_portion
from lightning_modules.fit import Fitted


def train_divided(
    card: dict, seeds: list[int], work: Path, *, launch: Launch, tracker=None, clock=None
) -> list[Fitted]:
    """Trains one network per seed. Where another command leads, nothing is returned.

    Args:
        card, seeds, work: as for `replicas.train_replicas`; `work` is the same folder for all nodes.
        launch: the part of this command.
        tracker, clock: told of every epoch, by the command that leads.

    Raises:
        InputError, DivergedError: as `fit` does.
        WorkerError: one of the processes ended because of an error that it printed, or was killed: for the second time,
            where this command starts all of them.
    """
    member, replicas = card["member"], len(seeds)
    # Who starts all of them can start them again, from the last checkpoint.
    tries = 2 if not launch.by and launch.nodes == 1 else 1
    board = Board(member, replicas, card["settings"]["epochs"]) if launch.leads else nullcontext()
    with board:
        for number in range(1, tries + 1):
            end = once(card, seeds, work, launch, board, tracker, clock, first=number == 1)
            if end is None:
                break
            if not end.killed or number == tries:
                raise failed(member, end, twice=number > 1)
            board.tell(f"a process that trained {member} {end.how}: it is tried once more")
    return [read_result(work, number) for number in range(replicas)] if launch.leads else []


def once(
    card: dict, seeds: list[int], work: Path, launch: Launch, board: Board, tracker, clock, *, first: bool
) -> End | None:
    """Trains what is not finished; returns how a process ended that did not come to its end.

    Args:
        first: whether nothing was tried before.
    """
    member, replicas = card["member"], len(seeds)
    left = unfinished_portions(card, replicas, work) if launch.leads else []
    count = len(launch.local_ranks)
    with (
        meeting_place(launch) as meeting,
        workers(count, take_part, card, seeds, work, left, launch, meeting, again=not first) as crew,
    ):
        training = crew.connections
        if launch.leads:
            for number in set(range(replicas)) - {number for numbers in left for number in numbers}:
                board.already(number)
            if first:
                tracker.start()
        while training:
            for connection in wait(training):
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    ends = [crew.buried(connection)]
                    # One that is killed takes the others along, some of which may be the first to be heard of.
                    ends += [crew.buried(other) for other in crew.connections if crew.is_dead(other)]
                    return next((end for end in ends if end.killed), ends[0])
                if "free" in event:
                    training.remove(connection)
                elif "failed" in event:
                    raise event["failed"](f"{member}, replica {event['replica']}: {event['message']}")
                elif "aside" in event:
                    tell_beginning(board, event["replica"], event["aside"])
                else:
                    board.show(event["replica"], event)
                    if "row" in event:
                        clock.keep()
                        tracker.epoch(event["replica"], event["row"])
    return None


@contextmanager
def meeting_place(launch: Launch) -> Iterator[Path | None]:
    """A file by which processes that this command alone starts find each other, in a folder on this machine's own disk
    that only this user can enter; None where others start some of them."""
    if launch.by or launch.nodes > 1:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        yield Path(folder, "meeting")


def take_part(
    connection: Connection,
    place: int,
    card: dict,
    seeds: list[int],
    work: Path,
    left: list[list[int]],
    launch: Launch,
    meeting: Path | None,
) -> None:
    """The life of one of the processes. `meeting`: see `ProcessGroup`."""
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
