"""Trains the replicas of a member side by side: worker processes that train, and this process, which listens,
shows and logs what they report.

A worker trains one replica at a time (`training.parallel` is processes), or several as one stacked computation. Where
that would leave workers idle at the end, they take turns of some epochs at each. What a worker that was killed had in
hand is tried once more, from its checkpoint.
"""

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from flows import hardware, project
from flows.progress import Board
from lightning_modules import sealed
from lightning_modules.errors import (
    DamagedError,
    DivergedError,
    ExhaustedError,
    InputError,
    WorkerError,
    exhausted,
)
from lightning_modules.fit import Fitted, fit, fit_together

# The most replicas in one stack. Also fewer of them come in as few stacks of equal size as this allows, whatever
# the number of cores: how many there are in a stack changes how its sums are rounded.
LARGEST_STACK = {"cpu": 4, "gpu": 32}
# Each turn builds its network anew and loads its checkpoint: a tenth of a second, for an eighth of a training saved.
MOST_TURNS = 8
PATIENCE = 5.0  # seconds for a process whose connection is closed to be gone
MOMENT = 0.5  # seconds


def portions(replicas: int, settings: dict) -> list[list[int]]:
    """What a worker trains at once: single replicas, or stacks of nearly equal size."""
    largest = LARGEST_STACK[settings["accelerator"]] if settings["parallel"] == "stacked" else 1
    stacks = -(-replicas // largest)
    return [list(range(first, replicas, stacks)) for first in range(stacks)]


def unfinished_portions(card: dict, replicas: int, work: Path) -> list[list[int]]:
    """Of a stack whose results are not all there, each is made again, from the stack's own checkpoint."""
    return [
        numbers
        for numbers in portions(replicas, card["settings"])
        if not all(is_finished(work, number) for number in numbers)
    ]


def turns(portions: int, jobs: int, epochs: int) -> int:
    """In how many turns, of equally many whole epochs but for the last, a portion is trained. Five portions in one turn
    keep two workers busy for three trainings, the last of which has one idle; in two turns each, for two and a half."""
    if portions <= jobs:
        return 1
    wanted = min(jobs // math.gcd(portions, jobs), MOST_TURNS, epochs)
    return math.ceil(epochs / math.ceil(epochs / wanted))


def train_replicas(
    card: dict, seeds: list[int], work: Path, *, jobs: int, devices: int, tracker, clock
) -> list[Fitted]:
    """Trains one network per seed, `jobs` at a time.

    Args:
        card: member, dataset, recipe, settings, class_names, mean and std.
        jobs: replicas, or stacks of them, that train at a time.
        work: keeps what each replica needs to go on, and its result once it has one.
        tracker: told of every epoch.
        clock: kept at every epoch.

    Raises:
        InputError, DivergedError: as `fit` does, naming member and replica.
        WorkerError: a worker process ended because of an error that it printed, or two were killed at the same replica.
    """
    member = card["member"]
    work_left = unfinished_portions(card, len(seeds), work)
    begun: set[int] = set()  # in this run, be it for one turn
    epochs = card["settings"]["epochs"]
    turn = math.ceil(epochs / turns(len(work_left), jobs, epochs))
    with (
        workers(min(jobs, len(work_left)), serve, card, seeds, work, devices, turn) as crew,
        Board(member, len(seeds), epochs) as board,
    ):
        idle = list(crew.connections)
        for number in set(range(len(seeds))) - {number for numbers in work_left for number in numbers}:
            board.already(number)
        running: dict[Connection, list[int]] = {}
        again: list[list[int]] = []

        def hand_out() -> None:
            while idle and work_left:
                connection, numbers = idle.pop(), work_left.pop(0)
                running[connection] = numbers
                try:
                    connection.send(numbers)
                except OSError:  # killed while it waited
                    lost(connection)

        def lost(connection: Connection) -> None:
            numbers = running.pop(connection)
            end = crew.buried(connection)
            if not end.killed or numbers in again:
                raise failed(names(member, numbers), end, twice=numbers in again)
            board.tell(f"the process that trained {names(member, numbers)} {end.how}: it is tried once more")
            again.append(numbers)
            # After the others, and with one process fewer where there are others: it may be for want of memory.
            work_left.append(numbers)
            begun.difference_update(numbers)
            if not crew.connections:
                idle.append(crew.start())

        hand_out()
        tracker.start()  # the replicas train while MLflow loads: a second, and more where it makes a new store
        while running:
            for connection in wait(list(running)):
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    lost(connection)
                    continue
                if "free" in event:
                    idle.append(connection)
                    numbers = running.pop(connection)
                    if not event["finished"]:
                        work_left.append(numbers)
                    continue
                number = event["replica"]
                if "failed" in event:
                    raise event["failed"](f"{member}, replica {number}: {event['message']}")
                if "aside" in event:
                    if event["aside"] or number not in begun:
                        tell_beginning(board, number, event["aside"])
                    continue
                begun.add(number)
                board.show(number, event)
                if "row" in event:
                    clock.keep()
                    tracker.epoch(number, event["row"])
            hand_out()
    return [read_result(work, number) for number in range(len(seeds))]


def tell_beginning(board: Board, number: int, aside: Path | None) -> None:
    """That of a replica for which there was a checkpoint: see `fit.Settings.report`."""
    if aside:
        board.begins_anew(number, project.shown(aside))
    else:
        board.goes_on(number)


def names(member: str, numbers: list[int]) -> str:
    return ", ".join(f"{member}-{number}" for number in numbers)


def failed(what: str, end: "End", twice: bool) -> WorkerError:
    if not end.killed:
        return WorkerError(f"the process that trained {what} {end.how}, after an error that it has printed")
    return WorkerError(f"the process that trained {what} {end.how}{', for the second time' if twice else ''}")


@dataclass(frozen=True)
class End:
    """How a worker ended, and what the system had to say of that."""

    code: int | None
    memory: str

    @property
    def killed(self) -> int:
        """The number of the signal, or 0. Lightning ends a process that gets one by an exit code of shells."""
        code = self.code or 0
        return -code if code < 0 else max(0, code - 128)

    @property
    def how(self) -> str:
        if not self.killed:
            return f"ended with exit code {self.code}"
        name = f"signal {self.killed}"
        with suppress(ValueError):
            name = signal.Signals(self.killed).name
        return f"was ended by {name} ({self.memory})"


class Crew:
    """Worker processes, and a connection to each.

    Args:
        life: what each does: called with its end of a connection, its number, the card and the arguments.
        again: whether there was another crew in this process.
    """

    def __init__(self, life: Callable, card: dict, *arguments, again: bool = False) -> None:
        self.life, self.arguments = life, (card, *arguments)
        # MLflow may have been loaded since others were started, with its threads.
        self.method = "spawn" if again else start_method(card["settings"]["accelerator"])
        self.processes: dict[Connection, multiprocessing.Process] = {}
        self.started = 0
        self.kills = hardware.memory_kills()

    @property
    def connections(self) -> list[Connection]:
        return list(self.processes)

    def start(self) -> Connection:
        """One more, whose number is the next one."""
        context = multiprocessing.get_context(self.method)
        here, there = context.Pipe()
        process = context.Process(target=self.life, args=(there, self.started, *self.arguments), daemon=True)
        process.start()
        there.close()
        self.started += 1
        self.processes[here] = process
        return here

    def buried(self, connection: Connection) -> End:
        """How it ended, now that nothing comes from it any more. It is one of the crew no longer."""
        process = self.processes.pop(connection)
        process.join(PATIENCE)
        process.kill()
        process.join()
        connection.close()
        # Who ends the whole stage has sent this process a signal too, which it is to see first.
        time.sleep(MOMENT)
        self.method = "spawn"  # see above
        memory = hardware.memory()
        if hardware.memory_kills() > self.kills:
            memory = f"the system was out of memory and killed for it; {memory}"
        return End(process.exitcode, memory)

    def is_dead(self, connection: Connection) -> bool:
        return not self.processes[connection].is_alive()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()  # it loses what follows its last checkpoint: files are renamed into place
        for process in self.processes.values():
            process.join()


@contextmanager
def workers(count: int, life: Callable, card: dict, *arguments, again: bool = False) -> Iterator[Crew]:
    """Starts `count` processes; ends them whatever happens. For the arguments see `Crew`."""
    sys.stdout.flush()
    sys.stderr.flush()
    crew = Crew(life, card, *arguments, again=again)
    try:
        for _ in range(count):
            crew.start()
        yield crew
    finally:
        crew.end()


def start_method(accelerator: str) -> str:
    """A fork where that is safe, so that torch and Lightning, seconds of import, are loaded once: on Linux, in a
    process that has computed no gradient, and without CUDA, neither of which survives a fork."""
    return "fork" if sys.platform == "linux" and accelerator == "cpu" else "spawn"


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
        checkpoint = checkpoint_file(work, numbers)
        given |= {"checkpoint": checkpoint, "report": tell}
        try:
            results = train_portion(card["recipe"], [seeds[number] for number in numbers], given)
            finished = all(result.finished for result in results)
            if finished:
                for position, result in enumerate(results):
                    write_result(work, numbers[position], result)
                    tell({"finished": True, "best_epoch": result.best_epoch, "replica": position})
                checkpoint.unlink(missing_ok=True)
        except Exception as error:
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
    from flows import dataset

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


def checkpoint_file(work: Path, numbers: list[int]) -> Path:
    return work / f"replica-{'-'.join(map(str, numbers))}.ckpt"


def result_file(work: Path, number: int) -> Path:
    return work / f"replica-{number}.safetensors"


def write_result(work: Path, number: int, result: Fitted) -> None:
    from safetensors.torch import save_file

    target = result_file(work, number)
    temporary = target.with_suffix(f".{os.getpid()}")
    about = {"history": json.dumps(result.history), "best_epoch": str(result.best_epoch)}
    about["sha256"] = digest_of(about, result.state)
    try:
        save_file({name: tensor.contiguous() for name, tensor in result.state.items()}, temporary, about)
        os.replace(temporary, target)
    except BaseException:  # the disk is full, say
        temporary.unlink(missing_ok=True)
        raise


def digest_of(about: dict[str, str], state: dict) -> str:
    from lightning_modules import weights

    kinds = {name: str(kind) for name, kind in weights.kinds(state).items()}
    return sealed.digest({"about": about, "kinds": kinds, "state": weights.digest(state)})


def read_result(work: Path, number: int) -> Fitted:
    """Raises DamagedError for a file that is not what was written."""
    from safetensors import SafetensorError, safe_open

    path = result_file(work, number)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(path, f"cannot be read (damaged: {error})") from None
    if about.pop("sha256", None) != digest_of(about, state):
        raise DamagedError(path, "is not what was written to it (changed or damaged)")
    return Fitted(state, json.loads(about["history"]), int(about["best_epoch"]))


def is_finished(work: Path, number: int) -> bool:
    """Whether the result of a replica is there. One that is damaged is put aside, which is said, and made again."""
    try:
        read_result(work, number)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        os.replace(error.file, error.file.with_name(f"{error.file.name}.damaged"))
        project.warn(f"{project.shown(error.file)} {error.reason}: put aside, and the replica is trained again")
        return False
    return True
