"""Trains the replicas of a member side by side: worker processes that train, and this process, which listens,
shows and logs what they report."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flows.progress import Board
from lightning_modules.errors import DivergedError, InputError, WorkerError
from lightning_modules.fit import Fitted, fit


def train_replicas(
    card: dict, seeds: list[int], work: Path, *, jobs: int, devices: int, tracker, clock
) -> list[Fitted]:
    """Trains one network per seed, `jobs` at a time.

    Args:
        card: member, dataset, recipe, settings, class_names, mean and std.
        work: keeps what each replica needs to go on, and its result once it has one.
        tracker: told of every epoch.
        clock: kept at every epoch.

    Raises:
        InputError, DivergedError: as `fit` does, naming member and replica.
        WorkerError: a worker process ended, because it was killed or because of an error that it printed.
    """
    member = card["member"]
    waiting = [number for number in range(len(seeds)) if not result_file(work, number).exists()]
    with workers(min(jobs, len(waiting)), card, seeds, work, devices) as connections:
        tracker.start()
        with Board(member, len(seeds), card["settings"]["epochs"]) as board:
            for number in set(range(len(seeds))) - set(waiting):
                board.already(number)
            idle = list(connections)
            running: dict[Connection, int] = {}
            while waiting or running:
                while idle and waiting:
                    connection, number = idle.pop(), waiting.pop(0)
                    if checkpoint_file(work, number).exists():
                        board.goes_on(number)
                    running[connection] = number
                    with lost_worker(f"{member}-{number}"):
                        connection.send(number)
                for connection in wait(list(running)):
                    number = running[connection]
                    with lost_worker(f"{member}-{number}"):
                        event = connection.recv()
                    if "failed" in event:
                        raise event["failed"](f"{member}, replica {number}: {event['message']}")
                    board.show(number, event)
                    if "row" in event:
                        clock.keep()
                        tracker.epoch(number, event["row"])
                    if "finished" in event:
                        idle.append(connection)
                        del running[connection]
    return [read_result(work, number) for number in range(len(seeds))]


@contextmanager
def lost_worker(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise WorkerError(f"the process that trained {name} was killed or ended with an error") from None


@contextmanager
def workers(count: int, card: dict, *arguments) -> Iterator[list[Connection]]:
    """Starts `count` processes that wait for the numbers of replicas; ends them whatever happens."""
    context = multiprocessing.get_context(start_method(card["settings"]["accelerator"]))
    started, connections = [], []
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for place in range(count):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, place, card, *arguments), daemon=True)
            process.start()
            there.close()
            started.append(process)
            connections.append(here)
        yield connections
    finally:
        for process in started:
            process.kill()  # at worst it loses the epoch it is in: results and checkpoints are renamed into place
        for process in started:
            process.join()


def start_method(accelerator: str) -> str:
    """A fork where that is safe, so that torch and Lightning, seconds of import, are loaded once: on Linux, in a
    process that has computed no gradient, and without CUDA, neither of which survives a fork."""
    return "fork" if sys.platform == "linux" and accelerator == "cpu" else "spawn"


def serve(connection: Connection, place: int, card: dict, seeds: list[int], work: Path, devices: int) -> None:
    """A worker's life: trains each replica whose number it is sent."""
    import signal

    from flows import dataset

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=die_with_parent, daemon=True).start()
    data = dataset.load(card["dataset"])
    given = {
        "training": data.split("train"),
        "validation": data.split("validation"),
        **{key: card[key] for key in ("recipe", "class_names", "mean", "std")},
        **card["settings"],
    }

    def report(event: dict) -> None:
        try:
            connection.send(event)
        except OSError:  # nobody listens any more
            os._exit(143)

    while True:
        number = connection.recv()
        checkpoint = checkpoint_file(work, number)
        try:
            result = fit(**given, seed=seeds[number], device=place % devices, checkpoint=checkpoint, report=report)
        except (InputError, DivergedError) as error:
            report({"failed": type(error), "message": str(error)})
            return
        write_result(work, number, result)
        checkpoint.unlink(missing_ok=True)
        report({"finished": True, "best_epoch": result.best_epoch})


def die_with_parent() -> None:
    """Ends this process soon after its parent, which, killed, could not do so: it would go on holding the
    member's lock, and for ever where it waits for work (its forked siblings keep the connection open)."""
    while multiprocessing.parent_process().is_alive():
        time.sleep(0.5)
    os._exit(143)


def checkpoint_file(work: Path, number: int) -> Path:
    return work / f"replica-{number}.ckpt"


def result_file(work: Path, number: int) -> Path:
    return work / f"replica-{number}.safetensors"


def write_result(work: Path, number: int, result: Fitted) -> None:
    import json

    from safetensors.torch import save_file

    target = result_file(work, number)
    temporary = target.with_suffix(f".{os.getpid()}")
    about = {"history": json.dumps(result.history), "best_epoch": str(result.best_epoch)}
    save_file({name: tensor.contiguous() for name, tensor in result.state.items()}, temporary, about)
    os.replace(temporary, target)


def read_result(work: Path, number: int) -> Fitted:
    import json

    from safetensors import safe_open

    with safe_open(result_file(work, number), "pt") as file:
        about = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Fitted(state, json.loads(about["history"]), int(about["best_epoch"]))
