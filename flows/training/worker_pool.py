"""The worker processes of a training, as this process sees them: what they say, and how they end."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from flows.machine import hardware
from flows.project.errors import WorkerError

PATIENCE = 5.0  # seconds for a process whose connection is closed to be gone
MOMENT = 0.5  # seconds


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
