"""The life of a worker process, which trains one replica or a stack of them."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from flows.machine import hardware
from flows.project.errors import DamagedError, DivergedError, ExhaustedError, InputError, exhausted
from flows.training import kept_results
from lightning_modules.fit import Fitted, fit, fit_together


def serve(
    connection: Connection, place: int, card: dict, seeds: list[int], work: Path, devices: int, turn: int
) -> None:
    """A worker's life: trains the replicas whose numbers it is sent for a turn, as one computation where there are
    several."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=die_with_parent, daemon=True).start()
    if card["settings"]["accelerator"] == "cpu":
        hardware.hide_gpus()
    given = given_to_fit(card) | {"device": place % devices, "turn": turn}

    def tell(event: dict) -> None:
        try:
            connection.send(event | {"replica": numbers[event["replica"]]} if "replica" in event else event)
        except OSError:  # nobody listens any more
            os._exit(143)

    while True:
        numbers = connection.recv()
        checkpoint = kept_results.checkpoint_file(work, numbers)
        given |= {"checkpoint": checkpoint, "report": tell}
        try:
            results = train_portion(card["recipe"], [seeds[number] for number in numbers], given)
            finished = all(result.finished for result in results)
            if finished:
                for position, result in enumerate(results):
                    kept_results.write_result(work, numbers[position], result)
                    tell({"finished": True, "best_epoch": result.best_epoch, "replica": position})
                checkpoint.unlink(missing_ok=True)
        except Exception as error:  # `failure` raises it again, unless it can be said in a sentence
            tell(failure(error))
            return
        tell({"free": True, "finished": finished})


def failure(error: Exception) -> dict:
    """What a worker tells of an error that it can say in a sentence; any other one is raised again."""
    if isinstance(error, (InputError, DivergedError)):
        kind = InputError if isinstance(error, DamagedError) else type(error)
        return {"failed": kind, "message": str(error), "replica": getattr(error, "replica", 0)}
    said = exhausted(error)
    if said is None:
        raise error
    return {"failed": ExhaustedError, "message": said, "replica": 0}


def given_to_fit(card: dict) -> dict:
    """The data and what the card says of the training, as `fit` takes them."""
    from flows.data import dataset

    data = dataset.load(card["dataset"], check=False)
    return {
        "training": data.part("train"),
        "validation": data.part("validation"),
        **{key: card[key] for key in ("class_names", "mean", "std")},
        **{key: value for key, value in card["settings"].items() if key not in ("parallel", "processes")},
    }


def train_portion(recipe: dict, seeds: list[int], given: dict) -> list[Fitted]:
    if len(seeds) == 1:
        return [fit(recipe, seed=seeds[0], **given)]
    return fit_together([recipe] * len(seeds), seeds=seeds, **given)


def die_with_parent() -> None:
    """Ends this process soon after its parent, which, killed, could not do so: it would go on holding the
    member's lock, and for ever where it waits for work (its forked siblings keep the connection open)."""
    while multiprocessing.parent_process().is_alive():
        time.sleep(0.5)
    os._exit(143)
