"""How the replicas of a member train: in processes of their own, or stacked into one computation.

The faster way is found by trying both on random images, for a second or two, and kept in .trainyard/calibration.json.
"""

import hashlib
import json
import multiprocessing
import platform
import time
from multiprocessing.connection import Connection

import numpy as np

from flows import hardware, project
from flows.replicas import portions, start_method
from lightning_modules import networks
from lightning_modules.errors import InputError
from lightning_modules.fit import fit, fit_together
from lightning_modules.stacked import NotStackableError, stack

# Seconds that a measured epoch has to take at least, to be more than noise; and the seconds a step may take
# before trying things out would take longer than it could save.
ENOUGH, TOO_LONG = 0.06, 0.3


def way(card: dict, replicas: int, jobs: int) -> str:
    """Resolves `training.parallel`: "processes" or "stacked".

    With `training.deterministic` nothing is measured, since a measurement may come out differently the next time, and
    the two round differently: each replica has its process on a CPU, and a GPU, far too large for one small network of
    fully connected layers, trains those stacked.

    Args:
        card: recipe, shape, class_names, settings (of which `parallel` may be "auto").
        jobs: processes that may run side by side.

    Raises:
        InputError: stacked is asked for, and the network cannot be stacked.
    """
    settings, name = card["settings"], card["recipe"]["network"]["name"]
    wanted = settings["parallel"]
    if wanted == "processes" or (wanted == "auto" and replicas == 1):
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
        return "stacked" if settings["accelerator"] == "gpu" and name == "mlp" else "processes"
    return calibrated(card, replicas, jobs)


def calibrated(card: dict, replicas: int, jobs: int) -> str:
    """The faster way by measurement, from the file of earlier ones where it is known."""
    file = project.state_folder() / "calibration.json"
    known = project.read_json(file) if file.exists() else {}
    key = key_of(card, replicas, jobs)
    if key not in known:
        seconds = {name: estimate(card, replicas, jobs, name) for name in ("processes", "stacked")}
        seconds = {name: value for name, value in seconds.items() if value is not None}
        known[key] = {"way": min(seconds, key=seconds.get) if len(seconds) > 1 else "processes", "seconds": seconds}
        project.write_json(file, known)
    return known[key]["way"]


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
    parts = portions(list(range(replicas)), settings)
    together = min(jobs, len(parts))
    context = multiprocessing.get_context(start_method(settings["accelerator"]))
    barrier = context.Barrier(together)
    pipes = [context.Pipe(duplex=False) for _ in range(together)]
    processes = [
        context.Process(target=measure, args=(there, barrier, card | {"settings": settings}, len(part)), daemon=True)
        for (_, there), part in zip(pipes, parts)
    ]
    for process in processes:
        process.start()
    for _, there in pipes:
        there.close()
    try:
        seconds = [here.recv() for here, _ in pipes]
    except EOFError:  # it ran out of memory, for instance
        return None
    finally:
        for process in processes:
            process.kill()
            process.join()
    return seconds_of(seconds, -(-len(parts) // together))


def seconds_of(measured: list[float | None], rounds: int) -> float | None:
    """Of as many rounds as there are stacks for each process; the slowest process counts."""
    return None if None in measured else max(measured) * rounds


def measure(connection: Connection, barrier, card: dict, count: int) -> None:
    """Sends the seconds of one step of `count` networks together, while other processes do the same."""
    barrier.wait()
    steps = 2
    while True:
        elapsed = time_epoch(card, count, steps)
        if elapsed >= ENOUGH:
            break
        steps *= 4
    connection.send(None if elapsed / steps > TOO_LONG * count else elapsed / steps)


def time_epoch(card: dict, count: int, steps: int) -> float:
    """Seconds of an epoch of `steps` mini-batches, after a first one."""
    settings = {key: value for key, value in card["settings"].items() if key != "parallel"}
    classes = len(card["class_names"])
    random = np.random.default_rng(0)
    size = settings["batch_size"] * steps
    images = random.integers(0, 256, (size, *card["shape"]), np.uint8)
    split = images, random.integers(0, classes, size)
    ends = []
    given = settings | {
        "epochs": 2,
        "early_stopping": None,
        "report": lambda event: ends.append(time.perf_counter()) if "row" in event else None,
        **{key: card[key] for key in ("class_names", "mean", "std")},
    }
    few = (split[0][:2], split[1][:2])
    if count == 1:
        fit(card["recipe"], split, few, seed=0, **given)
    else:
        fit_together([card["recipe"]] * count, split, few, seeds=list(range(count)), **given)
    return ends[-1] - ends[count - 1]
