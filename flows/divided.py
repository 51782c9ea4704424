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

from flows import hardware
from flows.launch import Launch
from flows.progress import Board
from flows.replicas import (
    checkpoint_file,
    die_with_parent,
    failure,
    given_to_fit,
    lost_worker,
    read_result,
    tell_beginning,
    train_portion,
    unfinished_portions,
    workers,
    write_result,
)
from lightning_modules.errors import InputError
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
        WorkerError: one of the processes ended, because it was killed or because of an error that it printed.
    """
    member, replicas = card["member"], len(seeds)
    left = unfinished_portions(card, replicas, work) if launch.leads else []
    board = Board(member, replicas, card["settings"]["epochs"]) if launch.leads else nullcontext()
    with (
        meeting_place(launch) as meeting,
        workers(len(launch.local_ranks), take_part, card, seeds, work, left, launch, meeting) as connections,
        board,
    ):
        training = list(connections)
        if launch.leads:
            for number in set(range(replicas)) - {number for numbers in left for number in numbers}:
                board.already(number)
            tracker.start()
        while training:
            for connection in wait(training):
                with lost_worker(member):
                    event = connection.recv()
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
    return [read_result(work, number) for number in range(replicas)] if launch.leads else []


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
    except Exception as error:
        tell(failure(error))
        return
    group.leave()
    tell({"free": True})
