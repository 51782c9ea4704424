"""Stage train@<member>: trains the replicas of one member, side by side, one process each.

Reads   data/<dataset>/ and the member's recipe in params.yaml
Writes  models/<dataset>/<member>/: weights.safetensors, member.json, history.csv
Run     python -m flows.train MEMBER

With `training.strategy` ddp they train one after another, each by several processes that divide its mini-batches;
torchrun and srun may start this command once for each of those.

A replica's result depends on its seed, the recipe and the data alone, not on how many train at once; where replicas
are stacked, their number changes how it is rounded, and so does that of the processes of one replica. What is
unfinished is kept in .trainyard/unfinished, so that the next run goes on from its last checkpoint.
"""

import csv
import hashlib
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows import hardware, project
from flows.console import run
from flows.launch import launch, launcher
from flows.params import Params, read
from lightning_modules.errors import InputError, counted

if TYPE_CHECKING:
    from lightning_modules.fit import Fitted

# How long an interrupted training can be gone on with, once the member has been trained by another recipe.
KEPT_DAYS = 30


def replica_seed(seed: int, member: str, replica: int) -> int:
    """Another one for each replica of each member, the same however many there are. 32 bits."""
    return zlib.crc32(f"{seed}/{member}/{replica}".encode())


def fingerprint(*parts: object) -> str:
    """Of everything that a result depends on: work that carries another fingerprint cannot be gone on with."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    for source in sorted((Path(__file__).parents[1] / "lightning_modules").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def train(params: Params, member: str) -> dict:
    """Trains `params.member(member).replicas` networks and writes them.

    Returns:
        What was written to member.json: member, dataset, seed, recipe, settings, shape, class_names, mean, std,
        parameters, history_sha256 (of history.csv), and a list of replicas, each with seed, epochs, best_epoch,
        validation_nll, validation_accuracy and weights_sha256. Where another command leads the training (see
        `launch`), the same without replicas and history_sha256, and nothing is written.

    Raises:
        InputError: the data or the recipe cannot be used, or another process trains this member.
        DivergedError: a loss became NaN or infinite.
        WorkerError: a process that trained a replica was killed.
    """
    from flows import dataset

    # What can be refused is refused before the seconds that torch and Lightning take to load.
    recipe = params.member(member)
    project.refuse_links(f"models/{params.dataset}/{member}")
    part = launch(params.training)
    data = dataset.load(params.dataset)
    if len(data.validation_indices) < params.training.processes:
        raise InputError(
            f"{counted(len(data.validation_indices), 'validation image')} cannot be divided among "
            f"{params.training.processes} processes (training.devices × training.num_nodes in params.yaml)"
        )

    import torch

    from flows.divided import train_divided
    from flows.replicas import train_replicas
    from flows.tracking import Tracker
    from lightning_modules.fit import hardware_precision

    accelerator = hardware.accelerator(params.training.accelerator, params.training.devices)
    settings = {
        **params.settings(member),
        "accelerator": accelerator,
        "precision": hardware_precision(params.training.precision, accelerator),
    }
    card = {
        "member": member,
        "dataset": params.dataset,
        "seed": params.seed,
        "recipe": recipe.recipe,
        "settings": settings,
        **{key: data.card[key] for key in ("shape", "class_names", "mean", "std")},
    }
    # A pool of threads in this process would hang the first parallel operation of the processes forked from it.
    torch.set_num_threads(1)
    card["parameters"] = try_out(card)
    jobs = side_by_side(recipe.replicas, settings["threads"], accelerator, params.training.devices)
    if part and settings["parallel"] == "auto":
        settings["parallel"] = "processes"
    settings["parallel"] = processes_or_stacked(card, recipe.replicas, jobs)
    seeds = [replica_seed(params.seed, member, number) for number in range(recipe.replicas)]

    unfinished = project.unfinished_folder(params.dataset) / member
    # Another number of replicas leaves those that are trained as they are.
    recipe_alone = {key: value for key, value in card["recipe"].items() if key != "replicas"}
    work = unfinished / fingerprint(card | {"recipe": recipe_alone}, data.card["files"])
    if part and not part.leads:
        train_divided(card, seeds, work, launch=part)
        return card
    with only_one(unfinished):
        work.mkdir(parents=True, exist_ok=True)

        clock = Clock(work / "seconds.json")
        tracker = Tracker(card, seeds, work)
        target = project.model_folder(params.dataset, member)
        try:
            if part:
                fitted = train_divided(card, seeds, work, launch=part, tracker=tracker, clock=clock)
            else:
                fitted = train_replicas(
                    card, seeds, work,
                    jobs=jobs, devices=params.training.devices, tracker=tracker, clock=clock,
                )  # fmt: skip
            card["replicas"] = [about(seed, result) for seed, result in zip(seeds, fitted)]
            write(target, card, fitted)
            project.write_json(
                project.seconds_file(params.dataset, member),
                {
                    "weights_sha256": [replica["weights_sha256"] for replica in card["replicas"]],
                    "seconds": round(clock.seconds(), 2),
                },
            )
        except BaseException as error:
            tracker.fail(error)
            raise
        tracker.finish(target, clock.seconds())
        shutil.rmtree(work)
        forget_old(unfinished)
    return card


class Clock:
    """Seconds of training, those of interrupted runs included: kept in a file beside the checkpoints."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = project.read_or_anew(file, lambda kept: float(kept["seconds"]), 0.0)
        self.started = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def keep(self) -> None:
        project.write_json(self.file, {"seconds": self.seconds()})


def about(seed: int, result: "Fitted") -> dict:
    """What member.json says of a replica."""
    from lightning_modules import weights

    best = result.history[result.best_epoch - 1]
    return {
        "seed": seed,
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "validation_nll": best["validation_nll"],
        "validation_accuracy": best["validation_accuracy"],
        "weights_sha256": weights.digest(result.state),
    }


def write(target: Path, card: dict, fitted: "list[Fitted]") -> None:
    """DVC takes what lies in models/<dataset> for results: the folder appears there whole, or not at all."""
    from flows import dataset
    from lightning_modules import weights

    temporary = target.parents[1] / f".{target.parent.name}.{target.name}.unfinished"
    with project.whole_folder(target, temporary):
        write_history(temporary / "history.csv", [result.history for result in fitted])
        card["history_sha256"] = dataset.file_sha256(temporary / "history.csv")
        weights.save(temporary, card, [result.state for result in fitted])


def forget_old(unfinished: Path) -> None:
    """Drops what other recipes of this member left when they were interrupted, a month ago or more."""
    for work in unfinished.iterdir():
        if time.time() - work.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(work)
    with suppress(OSError):  # something is left in it
        unfinished.rmdir()


@contextmanager
def only_one(unfinished: Path) -> Iterator[None]:
    """Holds the lock on the training of one member. Raises InputError where another process has it."""
    from filelock import FileLock, Timeout

    unfinished.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(unfinished.with_name(f"{unfinished.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        member, dataset = unfinished.name, unfinished.parent.name
        raise InputError(f"{member} is being trained on {dataset} by another process: wait for it") from None
    try:
        yield
    finally:
        lock.release()


def side_by_side(replicas: int, threads: int, accelerator: str, devices: int) -> int:
    """How many replicas train at once: one per GPU, or as many as the cores have room for."""
    if accelerator == "gpu":
        return min(replicas, devices)
    return max(1, min(replicas, hardware.allotted_cores() // threads))


def processes_or_stacked(card: dict, replicas: int, jobs: int) -> str:
    """Resolves `training.parallel`: replicas in processes of their own, or stacked into one computation.

    A rule by network and device, not a measurement, which may come out differently the next time, while the two round
    differently. Each replica has its process on a CPU or where there are several GPUs. One GPU, far too large for one
    small network of fully connected layers, trains those, all of which can be, stacked.

    Args:
        card: recipe, shape, class_names, settings (of which `parallel` may be "auto").
        jobs: processes that may run side by side.

    Raises:
        InputError: stacked is asked for, and the network cannot be stacked.
    """
    from lightning_modules import networks
    from lightning_modules.stacked import NotStackableError, stack

    settings, name = card["settings"], card["recipe"]["network"]["name"]
    if settings["parallel"] == "processes" or replicas == 1:
        return "processes"
    if settings["parallel"] == "auto":
        return "stacked" if settings["accelerator"] == "gpu" and name == "mlp" and jobs == 1 else "processes"
    try:
        stack([networks.build(card["recipe"], card["shape"], len(card["class_names"]))])
    except NotStackableError as error:
        raise InputError(
            f"params.yaml: training.parallel is stacked, but {error} (network {name}): use auto or processes"
        ) from None
    return "stacked"


def try_out(card: dict) -> int:
    """Builds the network and its optimizer once, so that what torch refuses is said before anything starts.
    Returns the number of parameters."""
    from lightning_modules import networks, optimizers

    network = networks.build(card["recipe"], card["shape"], len(card["class_names"]))
    optimizers.build(card["recipe"]["optimizer"], networks.groups(network))
    return sum(parameter.numel() for parameter in network.parameters())


def write_history(path: Path, histories: list[list[dict]]) -> None:
    rows = [{"replica": number, **row} for number, history in enumerate(histories) for row in history]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@click.command()
@click.argument("member")
def command(member: str) -> None:
    """Train the replicas of MEMBER, a name under `members` in params.yaml."""
    # Python's default would end this process without its `finally` blocks, and leave the replicas running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is closed; where DVC ends of it, so does this
    if launcher():  # which, killed, leaves the commands that it has started
        from flows.orphan import die_with_parent

        die_with_parent()
    card = train(read(), member)
    if "replicas" not in card:
        return
    best = [f"{replica['validation_accuracy']:.2%}" for replica in card["replicas"]]
    replicas = counted(len(best), "replica")
    print(f"{member}: {replicas} of {card['parameters']:,} parameters, validation accuracy {', '.join(best)}")


if __name__ == "__main__":
    run(command, libraries=True)
