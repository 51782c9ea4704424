"""The main function of a worker process, which trains one replica or a stack of them."""

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
    """The main function of a worker. Receives lists of replicas' numbers, and trains each list for a turn, several
    replicas as one stacked computation.

    Args:
        place: index of this worker, which selects its GPU.
        turn: epochs per turn.
    """
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
    """The event that reports an error whose message is a sentence. Raises any other error again."""
    if isinstance(error, (InputError, DivergedError)):
        kind = InputError if isinstance(error, DamagedError) else type(error)
        return {"failed": kind, "message": str(error), "replica": getattr(error, "replica", 0)}
    said = exhausted(error)
    if said is None:
        raise error
    return {"failed": ExhaustedError, "message": said, "replica": 0}


def given_to_fit(card: dict) -> dict:
    """The arguments of `fit` that come from the data and the card."""
    from flows.data import dataset

    data = dataset.load(card["dataset"], check=False)
    return {
        "training": data.split_view("train"),
        "validation": data.split_view("validation"),
        **{key: card[key] for key in ("class_names", "mean", "std", "task", "target") if key in card},
        **{key: value for key, value in card["settings"].items() if key not in ("parallel", "processes")},
    }


def train_portion(recipe: dict, seeds: list[int], given: dict) -> list[Fitted]:
    if len(seeds) == 1:
        return [fit(recipe, seed=seeds[0], **given)]
    return fit_together([recipe] * len(seeds), seeds=seeds, **given)


def die_with_parent() -> None:
    """Ends this process soon after its parent, which cannot end it when it is killed itself.

    Otherwise this process would keep the member's lock, and even for ever if it waits for work: forked siblings keep
    its connection open.
    """
    parent = multiprocessing.parent_process()
    while parent and parent.is_alive():
        time.sleep(0.5)
    os._exit(143)
