"""Trains all trials of a study, on all cores, and keeps what is done: an interrupted study goes on.

Trials of one shape train together as stacks. Which trials form a stack depends on the study alone, not on the cores or
on what was interrupted, so that the rows of a study that went on are those of one that was not interrupted.
"""

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.machine import hardware
from flows.project import paths
from flows.project.errors import InputError, WorkerError
from flows.studies import stacks, trials
from flows.studies.specification import Study
from flows.studies.trials import Trial, Tuning
from flows.studies.variants import Variant
from flows.training import worker_pool

PAUSE = 10.0  # seconds between two lines in a log


class Group:
    """The variants that can train together: their rounds, one after another."""

    def __init__(self, tunings: list[Tuning], most: int) -> None:
        self.tunings, self.most = tunings, most
        self.rounds = trials.rounds(tunings)
        self.left = 0  # stacks of the current round
        self.found: dict[Path, list[dict]] = {}

    def next_round(self) -> list[list[Trial]]:
        """The stacks of the next round; none at the end."""
        kinds: dict[str, list[Trial]] = defaultdict(list)
        for trial in next(self.rounds, []):
            kinds[stacks.alike(trial)].append(trial)
        return [stack for kind in kinds.values() for stack in stacks.stacks(kind, self.most)]

    def expect(self, file: Path) -> None:
        """Gives the rows of a stack their place, in whichever order the stacks end."""
        self.found[file] = []

    def learn(self, stack: list[Trial], file: Path, rows: list[dict]) -> None:
        self.found[file] = rows
        for tuning in self.tunings:
            tuning.learn(stack, rows)

    @property
    def rows(self) -> list[dict]:
        return [row for rows in self.found.values() for row in rows]


class Bar:
    """The progress of a study in epochs of single networks: a bar on a terminal, now and then a line in a log."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.last = name, total, 0, time.monotonic()
        self.started = self.last
        self.bar = None
        if sys.stdout.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self.task = self.bar.add_task(name, total=total)

    def __enter__(self) -> "Bar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, epochs: int) -> None:
        self.done += epochs
        self.total = max(self.total, self.done)
        if self.bar:
            self.bar.update(self.task, completed=self.done, total=self.total)
        elif time.monotonic() - self.last > PAUSE:
            self.last = time.monotonic()
            left = (self.last - self.started) / self.done * (self.total - self.done) if self.done else 0
            print(f"{self.name}: {self.done:,} of {self.total:,} epochs, {left:.0f} s left", flush=True)

    def widen(self, epochs: int) -> None:
        self.total += epochs


def run(name: str, study: Study, variants: list[Variant], shape: list[int], classes: int, inputs: dict) -> list[dict]:
    """The rows of all trials, see `worker.row`, in the order of the variants.

    Args:
        inputs: what else the results depend on, in plain JSON types: digests of the data and the code.

    Raises:
        InputError: torch refuses a recipe.
        WorkerError: a worker process was killed.
    """
    import torch

    from flows.studies import worker
    from lightning_modules.fit import prepare  # noqa: F401  # loaded once, before the workers are forked

    # With a thread pool in this process, the first parallel operation in a forked process would hang.
    torch.set_num_threads(1)
    accelerator = hardware.accelerator("auto", 1)
    card = {"settings": {"accelerator": accelerator, "precision": "float32", "threads": 1, "deterministic": True}}
    kept = paths.root() / ".trainyard" / "studies" / name
    kept.mkdir(parents=True, exist_ok=True)
    groups = grouped(study, variants, shape, classes, accelerator)
    tunings = [tuning for group in groups for tuning in group.tunings]
    used: set[Path] = set()
    processes = 1 if accelerator == "gpu" else hardware.allotted_cores()
    waiting: list[tuple[Group, list[Trial], Path]] = []

    def open_round(group: Group) -> None:
        """Puts the stacks of the group's next round into the queue, or takes their rows from where they are kept."""
        while found := group.next_round():
            for stack in found:
                file = kept / f"{digest(stack, card, inputs)}.json"
                used.add(file)
                group.expect(file)
                if file.exists():
                    group.learn(stack, file, worker.read_rows(file))
                    bar.advance(epochs_of(stack))
                else:
                    waiting.append((group, stack, file))
                    group.left += 1
            if group.left:
                return

    total = sum(trials.planned(group.tunings) * epochs_of(group.tunings[0].first()[:1]) for group in groups)
    with Bar(name, total) as bar:
        for group in groups:
            open_round(group)
        if waiting:
            train(waiting, open_round, bar, card, study, processes)
    remove_others(kept, used)
    order = {variant.name: place for place, variant in enumerate(variants)}
    assert len(order) == len(tunings)
    rows = with_tuned([row for group in groups for row in group.rows], tunings)
    return sorted(rows, key=lambda row: order[row["variant"]])


def train(
    waiting: list[tuple[Group, list[Trial], Path]], open_round: Callable[[Group], None], bar: Bar, card: dict,
    study: Study, processes: int,
) -> None:  # fmt: skip
    """Trains the waiting stacks, and those of later rounds, in worker processes."""
    from flows.studies import worker

    count = min(processes, max(len(waiting), 2))
    with worker_pool.workers(count, worker.serve, card, study, 1) as pool:
        idle = list(pool.connections)
        running: dict[Connection, tuple[Group, list[Trial], Path]] = {}
        while waiting or running:
            while idle and waiting:
                connection, work = idle.pop(), waiting.pop(0)
                connection.send((work[1], work[2]))
                running[connection] = work
            for connection in worker_pool.heard(running):
                group, stack, file = running[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    end = pool.reap(connection)
                    names = ", ".join(sorted({trial.variant for trial in stack}))
                    raise WorkerError(
                        f"the process that trained {names} {end.how}: run it again, and it goes on"
                    ) from None
                if "epochs" in event:
                    bar.advance(event["epochs"])
                elif "failed" in event:
                    raise event["failed"](f"variant {stack[0].variant}: {event['message']}")
                else:
                    del running[connection]
                    idle.append(connection)
                    group.learn(stack, file, worker.read_rows(file))
                    group.left -= 1
                    if not group.left:
                        open_round(group)


def grouped(study: Study, variants: list[Variant], shape: list[int], classes: int, accelerator: str) -> list[Group]:
    """The variants by what can train together. Each recipe is built once, so that torch refuses a bad one first."""
    from flows.training.resolving import build_once

    by_kind: dict[str, list[Tuning]] = defaultdict(list)
    weights: dict[str, int] = {}
    for variant in variants:
        tuning = Tuning(study, variant)
        for trial in tuning.first():
            try:
                card = {"recipe": dict(trial.recipe), "shape": shape, "class_names": [""] * classes}
                parameters = build_once(card)
            except InputError as error:
                raise InputError(f"variant {variant.name}: {error}") from None
        kind = stacks.alike(trial)
        by_kind[kind].append(tuning)
        weights[kind] = parameters
    return [
        Group(tunings, stacks.size(dict(tunings[0].variant.recipe), shape, classes, weights[kind], accelerator))
        for kind, tunings in by_kind.items()
    ]


def epochs_of(stack: list[Trial]) -> int:
    """The epochs of all networks of a stack."""
    return sum(len(trial.seeds) * trial.settings["epochs"] for trial in stack)


def digest(stack: list[Trial], card: dict, inputs: dict) -> str:
    """Identifies all that the rows of a stack depend on."""
    given = [
        [trial.variant, trial.setting, trial.value, trial.seeds, dict(trial.recipe), dict(trial.settings)]
        for trial in stack
    ]
    text = json.dumps([given, card, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def remove_others(kept: Path, used: set[Path]) -> None:
    """Removes what earlier versions of the study have left."""
    for file in kept.iterdir():
        if file.with_suffix(".json") not in used:
            with suppress(OSError):
                file.unlink()


def with_tuned(rows: list[dict], tunings: list[Tuning]) -> Iterator[dict]:
    """The rows, and those of a tuned value that is the default once more as tuned."""
    yield from rows
    for tuning in tunings:
        if tuning.variant.default is not None and tuning.best() == tuning.variant.default:
            for row in rows:
                if row["variant"] == tuning.variant.name and row["setting"] == trials.DEFAULT:
                    yield row | {"setting": trials.TUNED}
