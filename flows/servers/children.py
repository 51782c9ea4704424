"""Server processes that start together and end together."""

import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO, overload

import click

from flows.access import running_servers
from flows.machine.processes import ClosedError, Processes
from flows.project.errors import UnavailableError
from flows.project.private_files import tighten
from flows.untrusted import masking

PATIENCE = 120  # seconds for each part to answer; on a busy machine a new database takes 20
LOG_SIZE = 10_000_000  # bytes; a start rotates a larger log
GRACE = 6.0  # seconds for each part to end


class Stop(Exception):
    """Ctrl-C, SIGTERM, or the terminal was closed."""


@dataclass
class Part:
    """One of the processes that are served together, with its log.

    Attributes:
        lines: the last lines of its output.
        up: set when it has printed `sign`.
    """

    name: str
    log: Path
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=15))
    up: threading.Event = field(default_factory=threading.Event)
    sign: str | None = None

    def keep(self, line: str, file: TextIO) -> None:
        line = masking.text(line)
        self.lines.append(line)
        if self.sign and self.sign in line:
            self.up.set()
        print(line, file=file, flush=True)


class Parts:
    """Starts the parts, waits for them, and says which one has ended. As a context manager it ends them all on exit."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.processes = Processes(grace=GRACE)
        # (part, exit code) when a part ends, (None, number) for a signal. An exception of a signal handler could come
        # at any moment; an event is read where it can be handled.
        self.events: queue.SimpleQueue[tuple[Part | None, int]] = queue.SimpleQueue()

    def __enter__(self) -> "Parts":
        self.before = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        # SIGHUP: the terminal was closed. Under nohup it is ignored, and stays so.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self.before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self.on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.end_all()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: object) -> None:
        self.events.put((None, number))

    def start(self, name: str, command: list[str], env: dict[str, str], sign: str | None = None) -> Part:
        part = Part(name, self.logs / f"{name.split()[-1].lower()}.log", sign=sign)
        # A daemon thread: a part that never ends must not keep this process from ending.
        threading.Thread(target=self.follow, args=(part, command, env), daemon=True).start()
        return part

    def follow(self, part: Part, command: list[str], env: dict[str, str]) -> None:
        with open_log(part.log) as file:
            try:
                code = self.processes.run(command, lambda line: part.keep(line, file), env=env)
            except ClosedError:
                return
        self.events.put((part, code))

    def wait(
        self, condition: Callable[[], object], what: str, ends: Part | None = None, advice: str | None = None
    ) -> None:
        """Waits until the condition holds, or the part `ends` has ended with exit code 0.

        Args:
            what: the subject of the error's message.
            advice: what to do if it takes too long, for the message.

        Raises:
            Stop: a signal came.
            UnavailableError: a part ended, or PATIENCE is over.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{what} does not answer after {PATIENCE} seconds: {advice or f'look into {self.logs}'}"
                )
            part = self.next(0.1)
            if part is not None and part is ends:
                return
            if part is not None:
                raise UnavailableError(f"{part.name} has ended by itself: look into {part.log}")

    @overload
    def next(self) -> Part: ...

    @overload
    def next(self, timeout: float) -> Part | None: ...

    def next(self, timeout: float | None = None) -> Part | None:
        """The next part that ends with exit code 0; None after the timeout. Raises as `wait` does."""
        try:
            part, code = self.events.get(timeout=timeout)
        except queue.Empty:
            return None
        if part is None:
            raise Stop
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            last = "".join(f"\n    {line}" for line in part.lines)
            raise UnavailableError(f"{part.name} {how}. Its last lines, of {part.log}:{last}")
        return part


def open_log(path: Path) -> TextIO:
    """Opens a log to append to: it may say why an earlier start ended, after which systemd has started this one."""
    if path.exists() and path.stat().st_size > LOG_SIZE:
        os.replace(path, path.with_name(f"{path.name}.1"))
    file = path.open("a", encoding="utf-8")
    tighten(path)
    print(f"--- started at {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", file=file, flush=True)
    return file


@contextmanager
def until_one_ends(parts: "Parts", farewell: str) -> Iterator[None]:
    """Around the start of the parts: waits until one of them ends, or until this command is told to stop, which ends
    well, with a farewell.

    Raises:
        UnavailableError: a part has ended by itself.
    """
    try:
        yield
        part = parts.next()
    except Stop:
        click.echo(f"\n{farewell}")
        return
    finally:
        running_servers.forget()
    raise UnavailableError(f"{part.name} has ended by itself: look into {part.log}")
