"""How the replicas of a member train: in processes of their own, or stacked into one computation.

The faster way is found by trying both on random images, for a second or two, and kept in .trainyard/calibration.json.
"""

import hashlib
import json
import math
import multiprocessing
import platform
import threading
import time
from multiprocessing.connection import Connection

import numpy as np

from flows import hardware, project
from flows.replicas import die_with_parent, portions, start_method, turns
from lightning_modules import networks
from lightning_modules.errors import DivergedError, InputError
from lightning_modules.fit import fit, fit_together
from lightning_modules.stacked import NotStackableError, stack

# Seconds that a measured epoch has to take at least, to be more than noise; and the seconds a step may take
# before trying things out would take longer than it could save.
ENOUGH, TOO_LONG = 0.06, 0.3
# Random images, of which an epoch takes as many as it needs, again and again.
IMAGES = 1000
# Seconds that the processes wait for each other to have started.
PATIENCE = 60.0


def way(card: dict, replicas: int, jobs: int) -> str:
    """Resolves `training.parallel`: "processes" or "stacked". One replica has its own process.

    With `training.deterministic` nothing is measured, since a measurement may come out differently the next time, and
    the two round differently: each replica has its process on a CPU or where there are several GPUs, and one GPU, far
    too large for one small network of fully connected layers, trains those stacked.

    Args:
        card: recipe, shape, class_names, settings (of which `parallel` may be "auto").
        jobs: processes that may run side by side.

    Raises:
        InputError: stacked is asked for, and the network cannot be stacked.
    """
    settings, name = card["settings"], card["recipe"]["network"]["name"]
    wanted = settings["parallel"]
    if wanted == "processes" or replicas == 1:
        return "processes"
    try:
        stack([networks.build(card["recipe"], card["shape"], len(card["class_names"]))])
    except NotStackableError as error:
        if wanted == "stacked":
            raise InputError(
                f"params.yaml: training.parallel is stacked, but {error} (network {name}): use auto or processes"
            ) from None
        return "processes"
    if wanted == "stacked":
        return "stacked"
    if settings["deterministic"]:
        return "stacked" if settings["accelerator"] == "gpu" and name == "mlp" and jobs == 1 else "processes"
    return calibrated(card, replicas, jobs)


def calibrated(card: dict, replicas: int, jobs: int) -> str:
    """The faster way by measurement, from the file of earlier ones where it is known."""
    from filelock import FileLock

    file = project.state_folder() / "calibration.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # members that train side by side would measure each other
        known = project.read_or_anew(file, ways, {})  # a damaged one can be measured again
        key = key_of(card, replicas, jobs)
        if key not in known:
            seconds = {"processes": estimate(card, replicas, jobs, "processes")}
            if seconds["processes"] is not None:  # else a stack would take longer still to try
                seconds["stacked"] = estimate(card, replicas, jobs, "stacked")
            stacked = None not in seconds.values() and seconds["stacked"] < seconds["processes"]
            known[key] = {"way": "stacked" if stacked else "processes", "seconds": seconds}
            project.write_json(file, known)
    return known[key]["way"]


def ways(content: dict) -> dict:
    """What the file of earlier measurements holds. Raises TypeError or KeyError where it is none."""
    return {key: {"way": str(one["way"]), **one} for key, one in content.items()}


def key_of(card: dict, replicas: int, jobs: int) -> str:
    """Names what the speed of a training step depends on."""
    import torch

    machine = [platform.machine(), hardware.cores(), torch.__version__]
    if card["settings"]["accelerator"] == "gpu":
        machine.append(torch.cuda.get_device_name())
    told = [card["recipe"], card["shape"], len(card["class_names"]), card["settings"], replicas, jobs, machine]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def estimate(card: dict, replicas: int, jobs: int, name: str) -> float | None:
    """Seconds in which all replicas make one step, or None where a step takes too long to try."""
    settings = card["settings"] | {"parallel": name}
    parts = portions(replicas, settings)
    together = min(jobs, len(parts))
    context = multiprocessing.get_context(start_method(settings["accelerator"]))
    barrier = context.Barrier(together)
    processes, answers = [], []
    try:
        for place, part in enumerate(parts[:together]):
            here, there = context.Pipe(duplex=False)
            arguments = (there, barrier, card | {"settings": settings}, len(part), place)
            process = context.Process(target=measure, args=arguments, daemon=True)
            process.start()
            there.close()
            processes.append(process)
            answers.append(here)
        seconds = [here.recv() for here in answers]
    except EOFError:  # a process was killed: it ran out of memory, for instance
        return None
    finally:
        for process in processes:
            process.kill()
            process.join()
    many = turns(len(parts), jobs, settings["epochs"])
    return seconds_of(seconds, math.ceil(len(parts) * many / together) / many)


def seconds_of(measured: list[float | None], rounds: float) -> float | None:
    """Of as many rounds as there are stacks for each process; the slowest process counts."""
    return None if None in measured else max(measured) * rounds


def measure(connection: Connection, barrier, card: dict, count: int, place: int) -> None:
    """Sends the seconds of one step of `count` networks together, while other processes do the same; or None where a
    step takes too long, or the recipe diverges on random images."""
    threading.Thread(target=die_with_parent, daemon=True).start()
    if card["settings"]["accelerator"] == "cpu":
        hardware.hide_gpus()
    seconds = None
    try:
        barrier.wait(PATIENCE)
        steps = 1
        while (elapsed := time_epoch(card, count, steps, place)) < ENOUGH:
            steps *= 4
        if elapsed / steps <= TOO_LONG * count:
            seconds = elapsed / steps
    except (DivergedError, threading.BrokenBarrierError):
        pass
    connection.send(seconds)


def time_epoch(card: dict, count: int, steps: int, place: int) -> float:
    """Seconds of an epoch of `steps` mini-batches, after a first one."""
    settings = {key: value for key, value in card["settings"].items() if key != "parallel"}
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, *card["shape"]), np.uint8)
    labels = random.integers(0, len(card["class_names"]), IMAGES)
    rows = np.arange(settings["batch_size"] * steps) % IMAGES
    ends = []
    given = settings | {
        "epochs": 2,
        "early_stopping": None,
        "device": place,
        "report": lambda event: ends.append(time.perf_counter()) if "row" in event else None,
        **{key: card[key] for key in ("class_names", "mean", "std")},
    }
    training, validation = (images, labels, rows), (images[:2], labels[:2])
    if count == 1:
        fit(card["recipe"], training, validation, seed=0, **given)
    else:
        fit_together([card["recipe"]] * count, training, validation, seeds=list(range(count)), **given)
    return ends[-1] - ends[count - 1]
