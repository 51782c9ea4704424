"""The worker processes of a training, seen from their parent: started, connected, and how they end."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from flows.machine import hardware
from flows.project.errors import WorkerError

PATIENCE = 5.0  # seconds that a process may take to end after its connection was closed
MOMENT = 0.5  # seconds


def failed(what: str, end: "End", twice: bool) -> WorkerError:
    if not end.killed:
        return WorkerError(f"the process that trained {what} {end.how}, after an error that it has printed")
    return WorkerError(f"the process that trained {what} {end.how}{', for the second time' if twice else ''}")


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        code: exit code, or minus the number of a signal.
        memory: a note on the system's memory, for a message.
    """

    code: int | None
    memory: str

    @property
    def killed(self) -> int:
        """The number of the signal that ended the worker, or 0. Lightning exits with 128 + the number, as shells do."""
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


def heard(connections: Iterable[Connection]) -> list[Connection]:
    """Those from which something has come, or will never come any more. Waits for the first one."""
    return [one for one in wait(list(connections)) if isinstance(one, Connection)]


class WorkerPool:
    """Worker processes, with a connection to each.

    Args:
        target: the main function of each, called with its end of the connection, its number, the card and `arguments`.
        again: whether this process had workers before.
    """

    def __init__(self, target: Callable, card: dict, *arguments: Any, again: bool = False) -> None:
        self.target, self.arguments = target, (card, *arguments)
        # After the first workers MLflow may have been loaded, whose threads make a fork unsafe.
        self.method = "spawn" if again else start_method(card["settings"]["accelerator"])
        self.processes: dict[Connection, BaseProcess] = {}
        self.started = 0
        self.kills = hardware.out_of_memory_kills()

    @property
    def connections(self) -> list[Connection]:
        return list(self.processes)

    def start(self) -> Connection:
        """Starts another worker, with the next number, and returns the connection to it."""
        context = multiprocessing.get_context(self.method)
        here, there = context.Pipe()
        process = context.Process(  # type: ignore[attr-defined]  # which each kind of context has
            target=self.target, args=(there, self.started, *self.arguments), daemon=True
        )
        process.start()
        there.close()
        self.started += 1
        self.processes[here] = process
        return here

    def reap(self, connection: Connection) -> End:
        """Removes a worker whose connection was closed, waits for its end, and returns how it ended."""
        process = self.processes.pop(connection)
        process.join(PATIENCE)
        process.kill()
        process.join()
        connection.close()
        # If the whole stage is being ended, this process has got a signal as well. Let it arrive first.
        time.sleep(MOMENT)
        self.method = "spawn"  # see __init__
        memory = hardware.free_memory()
        if hardware.out_of_memory_kills() > self.kills:
            memory = f"the system was out of memory and killed for it; {memory}"
        return End(process.exitcode, memory)

    def is_dead(self, connection: Connection) -> bool:
        return not self.processes[connection].is_alive()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()  # loses only what follows its last checkpoint: files are renamed into place
        for process in self.processes.values():
            process.join()


@contextmanager
def workers(count: int, target: Callable, card: dict, *arguments: Any, again: bool = False) -> Iterator[WorkerPool]:
    """Starts `count` worker processes, and ends them on exit. For the arguments see `WorkerPool`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pool = WorkerPool(target, card, *arguments, again=again)
    try:
        for _ in range(count):
            pool.start()
        yield pool
    finally:
        pool.end()


def start_method(accelerator: str) -> str:
    """The start method of `multiprocessing`: fork where that is safe, so that torch and Lightning are imported only
    once, which takes seconds.

    A fork is safe on Linux, without CUDA, and in a process that has computed no gradient.
    """
    return "fork" if sys.platform == "linux" and accelerator == "cpu" else "spawn"
