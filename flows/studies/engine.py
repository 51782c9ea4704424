"""Trains all trials of a study, on all cores, and keeps what is done: an interrupted study goes on.

Trials of one shape train together as stacks. Which trials form a stack depends on the study alone, not on the cores or
on what was interrupted, so that the rows of a study that went on are those of one that was not interrupted.
"""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from flows.machine import hardware
from flows.project import paths
from flows.project.errors import InputError, WorkerError
from flows.studies import report, stacks, timing, trials
from flows.studies.progress import Bar
from flows.studies.specification import Study
from flows.studies.trials import Trial, Tuning
from flows.studies.variants import Variant
from flows.training import worker_pool


class Group:
    """The variants that can train together: their rounds, one after another.

    Args:
        most: networks in a stack.
        largest: whether more than half of the study's trials are in this group.
    """

    def __init__(self, tunings: list[Tuning], most: int, largest: bool) -> None:
        self.tunings, self.most, self.largest = tunings, most, largest
        self.rounds = trials.rounds(tunings)
        self.left = 0  # stacks of the current round
        self.found: dict[Path, list[dict]] = {}

    def next_round(self) -> list[list[Trial]]:
        """The stacks of the next round; none at the end."""
        kinds: dict[str, list[Trial]] = defaultdict(list)
        for trial in next(self.rounds, []):
            kinds[stacks.alike(trial)].append(trial)
        return [stack for kind in kinds.values() for stack in stacks.stacks(kind, self.most, self.largest)]

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


def run(name: str, study: Study, variants: list[Variant], shape: list[int], classes: int, inputs: dict) -> list[dict]:
    """The rows of all trials, see `worker.row` and `timing.timed`, in the order of the variants.

    Args:
        inputs: what else the results depend on, in plain JSON types: digests of the data and the code.

    Raises:
        InputError: torch refuses a recipe, or another process runs this study.
        WorkerError: a worker process was killed.
    """
    import torch
    from filelock import FileLock, Timeout

    import lightning_modules.fit  # noqa: F401  # loaded once, before the workers are forked

    # With a thread pool in this process, the first parallel operation in a forked process would hang.
    torch.set_num_threads(1)
    accelerator = hardware.accelerator("auto", 1)
    card = {
        "settings": {"accelerator": accelerator, "precision": "float32", "threads": 1, "deterministic": True},
        "torch": torch.__version__,
    }
    kept = paths.root() / ".trainyard" / "studies" / name
    kept.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(kept.with_suffix(".lock"), timeout=0):
            groups = grouped(study, variants, shape, classes, accelerator)
            train_all(name, groups, study, card, inputs, kept)
    except Timeout:
        raise InputError(f"another process runs the study {name}: wait for it, or end it") from None
    order = {variant.name: place for place, variant in enumerate(variants)}
    tunings = [tuning for group in groups for tuning in group.tunings]
    rows = with_tuned([row for group in groups for row in group.rows], tunings)
    return timing.timed(sorted(rows, key=lambda row: order[row["variant"]]), study)


def train_all(name: str, groups: list[Group], study: Study, card: dict, inputs: dict, kept: Path) -> None:
    """Trains what is not kept in a file yet, and removes files of other versions of the study."""
    used: set[Path] = set()
    waiting: list[Work] = []
    total = epochs_of([trial for group in groups for tuning in group.tunings for trial in tuning.planned()])
    with Bar(name, total) as bar:

        def open_round(group: Group) -> None:
            """Puts the stacks of the group's next round into the queue, or takes their rows where they are kept."""
            while found := group.next_round():
                for stack in found:
                    file = kept / f"{digest(stack, card, inputs)}.json"
                    used.add(file)
                    group.expect(file)
                    rows = read_rows(file, len(stack))
                    if rows is None:
                        # Small groups first: their rounds follow one another on one core, and then it would be the
                        # last one that is busy.
                        waiting.insert(len(waiting) if group.largest else 0, Work(group, stack, file))
                        group.left += 1
                    else:
                        group.learn(stack, file, rows)
                        bar.advance(epochs_of(stack))
                if group.left:
                    return

        for group in groups:
            open_round(group)
        if waiting:
            train(waiting, open_round, bar, card, study)
    remove_others(kept, used)


def train(waiting: list["Work"], open_round: Callable[[Group], None], bar: Bar, card: dict, study: Study) -> None:
    """Trains the waiting stacks, and those of later rounds, in worker processes."""
    from flows.studies import worker

    cores = 1 if card["settings"]["accelerator"] == "gpu" else hardware.allotted_cores()
    with worker_pool.workers(min(cores, max(len(waiting), 2)), worker.serve, card, study) as pool:
        bar.start()
        # Its libraries take a second, and this process has nothing else to do.
        threading.Thread(target=report.load, daemon=True).start()
        idle = list(pool.connections)
        running: dict[Connection, Work] = {}

        def lost(connection: Connection) -> WorkerError:
            end, work = pool.reap(connection), running[connection]
            names = ", ".join(sorted({trial.variant for trial in work.stack}))
            return WorkerError(f"the process that trained {names} {end.how}: run it again, and it goes on")

        while waiting or running:
            while idle and waiting:
                connection = idle.pop()
                work = running[connection] = waiting.pop(0)
                try:
                    connection.send((work.stack, work.file))
                except OSError:  # it was killed while it waited
                    raise lost(connection) from None
            for connection in worker_pool.heard(running):
                work = running[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    raise lost(connection) from None
                if "epochs" in event:
                    work.shown += event["epochs"]
                    bar.advance(event["epochs"])
                    continue
                if "failed" in event:
                    raise event["failed"](f"variant {work.stack[0].variant}: {event['message']}")
                del running[connection]
                idle.append(connection)
                bar.advance(max(0, epochs_of(work.stack) - work.shown))  # of those that diverged or stopped early
                work.group.learn(work.stack, work.file, event["rows"])
                work.group.left -= 1
                if not work.group.left:
                    open_round(work.group)


@dataclass
class Work:
    """A stack that is to be trained.

    Attributes:
        file: that keeps its rows.
        shown: epochs of its networks that the bar shows.
    """

    group: Group
    stack: list[Trial]
    file: Path
    shown: int = 0


def read_rows(file: Path, count: int) -> list[dict] | None:
    """The rows that a worker has written; None where there are none, or the file is damaged. Python's json reads and
    writes NaN and Infinity."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows if isinstance(rows, list) and len(rows) == count else None


def grouped(study: Study, variants: list[Variant], shape: list[int], classes: int, accelerator: str) -> list[Group]:
    """The variants by what can train together. Each recipe is built once, so that torch refuses a bad one first."""
    from flows.training.resolving import build_once

    by_kind: dict[str, list[Tuning]] = defaultdict(list)
    weights: dict[str, int] = {}
    for variant in variants:
        tuning = Tuning(study, variant)
        recipes = {json.dumps(dict(trial.recipe), sort_keys=True): trial for trial in tuning.first()}
        for trial in recipes.values():  # one a value: seeds share it
            try:
                card = {"recipe": dict(trial.recipe), "shape": shape, "class_names": [""] * classes}
                parameters = build_once(card)
            except InputError as error:
                raise InputError(f"variant {variant.name}: {error}") from None
        kind = stacks.alike(trial)
        by_kind[kind].append(tuning)
        weights[kind] = parameters
    planned = {kind: sum(len(tuning.planned()) for tuning in tunings) for kind, tunings in by_kind.items()}
    return [
        Group(
            tunings,
            stacks.size(tunings[0].variant.at(None)[0], shape, classes, weights[kind], accelerator),
            planned[kind] > sum(planned.values()) / 2,
        )
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
