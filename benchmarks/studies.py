"""The study of optimizers on digits, from the command to its figures, against the same trainings by the usual script
and by bare PyTorch loops; its memory; and the study again when nothing has changed.

Runs in a temporary copy of this project, in which no training is kept yet. Ours is measured once, as a whole. Of each
rival a part is measured, before ours and again after it: ten seconds or more of turns of three optimizers, the cheapest
one among them. The rest is reckoned at the same pace. Left out in the rivals' favour: their start, the scores on
held-out images, the choice of the best epoch, all figures, and MLflow.
"""

import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import yaml

from benchmarks import data
from benchmarks.aside import Aside
from benchmarks.measure import RUNS, ForeignLoad, alone, as_accurate, command, ratio
from benchmarks.memory import megabytes
from benchmarks.pipeline import copy, row
from benchmarks.sides import with_keras
from flows.machine import hardware
from flows.studies import data as study_data
from flows.studies import specification
from flows.studies.variants import Variant, variants
from lightning_modules import names
from lightning_modules.optimizers import FULL_BATCH

NAME = "optimizers"
COMMAND = ("flows.studies.study", NAME)
RESULTS = f"studies/results/{NAME}"
# Trained by the rivals: torch and Keras call them the same and give them the same defaults.
OPTIMIZERS = ("sgd", "rmsprop", "adam")
# What the rivals train.
NETWORK = {"name": "mlp", "batch_norm": False}
PLAIN = {
    "activation": "relu", "initializer": "he_normal", "loss": "cross_entropy", "dropout": 0.0, "label_smoothing": 0.0,
    "regularization": names.REGULARIZATION, "schedule": "constant", "replicas": 1,
}  # fmt: skip
PART = 10.0  # seconds at least of a rival's part
INTERVAL = 0.5  # seconds between two samples of the memory; one takes 5 ms a process

TRAININGS = 20 * (7 + 2 * 5)  # which the seconds of the goal are for
SECONDS = 180.0
MEMORY = 1.5e9
AGAIN = 2.0  # seconds
SCRIPT, LOOP = 8.0, 2.0  # times as long as ours


@dataclass(frozen=True)
class Part:
    """What a rival did in a part: trainings a second, their number, seconds, and accuracies by optimizer."""

    pace: float
    trainings: int
    seconds: float
    accuracies: dict[str, list[float]]


@dataclass(frozen=True)
class Rival:
    """Processes that train side by side, and what they did.

    Attributes:
        goal: how many times as long as ours it is to take.
    """

    title: str
    goal: float
    processes: list[Aside] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """Our study: seconds, peak memory in bytes, and the rows of trainings.csv, a training each."""

    seconds: float
    memory: int
    trainings: list[dict[str, str]]

    @property
    def accuracies(self) -> dict[str, list[float]]:
        """At the default learning rate, on the validation images, by optimizer; 0 for a training that diverged."""
        return {
            name: [
                float(training["validation_accuracy"] or 0)
                for training in self.trainings
                if training["variant"] == name and training["setting"] == "default"
            ]
            for name in OPTIMIZERS
        }

    @property
    def in_batches(self) -> int:
        """Trainings in mini-batches: one that takes all images in one step is no work for a rival."""
        return sum(training["variant"] not in FULL_BATCH for training in self.trainings)


def measure(study: dict | None = None, part: float = PART, runs: int = RUNS) -> list[dict]:
    """The rows of the study of optimizers.

    Args:
        study: another one of the same name, as in studies.yaml; by default the one that ships.
        part: seconds at least of a rival's part.
        runs: of the study with nothing changed.
    """
    with tempfile.TemporaryDirectory() as name:
        root, folder = Path(name, "project"), Path(name, "rivals")
        root.mkdir()
        folder.mkdir()
        copy(root)
        if study:
            file = root / specification.FILE
            content = yaml.safe_load(file.read_text(encoding="utf-8")) | {"studies": {NAME: study}, "repeats": {}}
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
        with contextlib.chdir(root):
            given = specification.study(NAME)
            compared = variants(given)
            command("flows.studies.data", given.dataset)()
            told = for_rivals(given, compared, folder)
        load, whole, rivals = side_by_side(root, told, folder, part)
        what = (
            f"study of {len(compared)} optimizers on {given.dataset}, {len(whole.trainings)} trainings of "
            f"{told['epochs']} epochs, seed {given.seed}, {given.seeds} fresh seeds (python -m {' '.join(COMMAND)})"
        )
        return [
            *ours(what, whole, load),
            *(against(whole, rival, load) for rival in rivals),
            again(root, runs),
        ]


def side_by_side(root: Path, told: dict, folder: Path, part: float) -> tuple[float, Whole, list[Rival]]:
    """Measures a part of each rival, ours, and a part of each rival again. Returns the foreign load too."""
    seeds = count()
    with contextlib.ExitStack() as stack, ForeignLoad() as load:
        rivals = start(told, folder, stack)
        for rival in rivals:
            take_part(rival, 0.0, seeds)  # a warm-up of one turn
        before = [take_part(rival, part, seeds) for rival in rivals]
        seconds, memory = watched(*COMMAND, cwd=root)
        after = [take_part(rival, part, seeds) for rival in rivals]
    whole = Whole(seconds, memory, trainings(root))
    return load.share, whole, [replace(rival, parts=parts) for rival, *parts in zip(rivals, before, after)]


def for_rivals(study: specification.Study, compared: list[Variant], folder: Path) -> dict:
    """Writes the study's images, and returns the rivals' settings but for threads.

    Raises:
        ValueError: the study trains something else than the rivals do.
    """
    by_name = {variant.name: variant for variant in compared}
    if missing := [name for name in OPTIMIZERS if name not in by_name]:
        raise ValueError(f"the rivals train with {', '.join(OPTIMIZERS)}, but the study has no variant {missing[0]}")
    rates = {}
    for name in OPTIMIZERS:
        recipe, settings = by_name[name].at(None)
        optimizer, network = dict(recipe["optimizer"]), dict(recipe["network"])
        rates[name], hidden = optimizer.pop("lr"), network.pop("hidden", None)
        found = {**{key: recipe[key] for key in PLAIN}, "network": network, "augment": settings["augment"]}
        found |= {"weight_decay": optimizer["weight_decay"], "early_stopping": study.early_stopping}
        expected = {**PLAIN, "network": NETWORK, "augment": "none", "weight_decay": 0.0, "early_stopping": None}
        if other := [key for key in expected if found[key] != expected[key]]:
            key = other[0]
            raise ValueError(f"the rivals train with {key} {expected[key]}, but the study with {found[key]}")
    splits = study_data.load(study)
    chosen = (
        (np.array(splits.images[rows]), np.array(splits.labels[rows])) for rows in (splits.train, splits.validation)
    )
    images = data.Data(study.dataset, *chosen, splits.card["class_names"], real=True)
    return {
        **data.for_rivals(images, folder),
        **{key: settings[key] for key in ("epochs", "batch_size")},
        "hidden": hidden,
        "rates": rates,
    }


def start(told: dict, folder: Path, stack: contextlib.ExitStack) -> list[Rival]:
    """Starts the rivals' processes, which end with the stack: of a script one, of the loop one a core.

    PyTorch's have one thread each: with such small networks a second one gains nothing, and with other programs on its
    core the first one waits for it most of the time.
    """
    cores = hardware.cores()

    def process(module: str, threads: int, python: str = sys.executable) -> Aside:
        return stack.enter_context(Aside(f"benchmarks.rivals.{module}", told | {"threads": threads}, folder, python))

    rivals = [Rival("a loop of DataLoader and Lightning trainings", SCRIPT, [process("study_script", 1)])]
    if python := with_keras():
        keras = process("study_keras", cores, python)
        rivals.append(Rival(keras.about, SCRIPT, [keras]))
    bare = [process("study_loop", 1) for _ in range(cores)]
    return [*rivals, Rival(f"bare PyTorch loops in {cores} processes", LOOP, bare)]


def take_part(rival: Rival, seconds: float, seeds: Iterator[int]) -> Part:
    """Lets each process of the rival train in turns of OPTIMIZERS, each turn with a seed of its own, until `seconds`
    are over."""
    accuracies: dict[str, list[float]] = defaultdict(list)

    def turns(process: Aside) -> tuple[int, float]:
        begun, done = time.perf_counter(), 0
        while not done or time.perf_counter() - begun < seconds:
            seed = next(seeds)
            for name in OPTIMIZERS:
                accuracies[name].append(process(seed=seed, optimizer=name))
                done += 1
        return done, time.perf_counter() - begun

    with ThreadPoolExecutor(len(rival.processes)) as pool:
        taken = list(pool.map(turns, rival.processes))
    pace = sum(done / wall for done, wall in taken)
    return Part(pace, sum(done for done, _ in taken), max(wall for _, wall in taken), dict(accuracies))


def watched(*arguments: str, cwd: Path) -> tuple[float, int]:
    """The seconds that `python -m ARGUMENTS` takes, and the peak memory of its processes together, in bytes:
    proportional shares, so that what forked processes share counts once.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    highest = 0
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # the rivals have the CPU alone
    with tempfile.TemporaryFile("w+") as output:
        begun = time.perf_counter()
        child = psutil.Popen(
            [sys.executable, "-m", *arguments], cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        while child.poll() is None:
            highest = max(highest, memory_of(child))
            with contextlib.suppress(psutil.TimeoutExpired):
                child.wait(INTERVAL)
        seconds = time.perf_counter() - begun
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{output.read()[-3000:]}")
    return seconds, highest


def memory_of(root: psutil.Process) -> int:
    """The memory of a process and its descendants, in bytes."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += process.memory_full_info().pss
    return total


def trainings(root: Path) -> list[dict[str, str]]:
    """The rows of trainings.csv, without those that are there again as tuned because the tuned value is the default."""
    with (root / RESULTS / "trainings.csv").open(newline="", encoding="utf-8") as stream:
        found = {(one["variant"], one["value"], one["seed"]): one for one in reversed(list(csv.DictReader(stream)))}
    return list(found.values())


def ours(what: str, whole: Whole, load: float) -> list[dict]:
    """Rows of the seconds and the memory. A smaller study than the goal's has to be as much faster."""
    allowed = SECONDS * min(1.0, len(whole.trainings) / TRAININGS)
    return [
        {
            "what": f"{what}: from the command to its figures, once", "ours": f"{whole.seconds:.1f} s", "load": load,
            "goal": f"at most {SECONDS:g} s for {TRAININGS} trainings", "reached": whole.seconds <= allowed,
            "measured": {"seconds": whole.seconds, "trainings": len(whole.trainings)},
        },
        {
            "what": "the same: peak memory of all its processes", "ours": megabytes(whole.memory), "load": load,
            "goal": f"at most {megabytes(MEMORY)}", "reached": whole.memory <= MEMORY,
            "measured": {"bytes": whole.memory},
        },
    ]  # fmt: skip


def against(whole: Whole, rival: Rival, load: float) -> dict:
    """The row of a rival, whose trainings are as many as ours at the pace of each of its parts."""
    seconds = sorted(whole.in_batches / part.pace for part in rival.parts)
    ratios = [other / whole.seconds for other in seconds]
    times = {"ratio": statistics.median(ratios), "ratio_min": ratios[0], "ratio_max": ratios[-1]}
    reached = {name: [one for part in rival.parts for one in part.accuracies[name]] for name in OPTIMIZERS}
    equal = all(as_accurate(whole.accuracies[name], reached[name]) for name in OPTIMIZERS)
    accuracy = " / ".join(f"{mean_of_all(found):.2%}" for found in (whole.accuracies, reached))
    measured = sum(part.trainings for part in rival.parts)
    return {
        "what": f"the same, against {rival.title}: {measured} trainings by {', '.join(OPTIMIZERS)} in "
        f"{sum(part.seconds for part in rival.parts):.0f} s, reckoned up to {whole.in_batches}",
        "ours": f"{whole.seconds:.1f} s",
        "other": f"{statistics.median(seconds):,.0f} s ({seconds[0]:,.0f} to {seconds[-1]:,.0f})",
        "ratio": ratio(times),
        "accuracy": accuracy if equal else f"{accuracy}, NOT EQUAL",
        "load": load,
        "goal": f"at least {rival.goal:g}",
        "reached": equal and times["ratio"] >= rival.goal,
        "measured": {"parts": [asdict(part) for part in rival.parts], "ours": whole.accuracies, **times},
    }


def mean_of_all(accuracies: dict[str, list[float]]) -> float:
    """The mean over the optimizers, each of which counts the same."""
    return statistics.mean(map(statistics.mean, accuracies.values()))


def again(root: Path, runs: int) -> dict:
    """The row of the study when nothing has changed. The first `dvc repro` takes the trainings that are kept."""
    repro = command("dvc", "repro", f"studies/dvc.yaml:study@{NAME}", cwd=root)
    times = alone(repro, runs)
    return row("the same again by dvc repro, nothing changed", times["median"], AGAIN, times)
