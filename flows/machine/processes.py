"""Runs commands that leave nothing behind: each in a session of its own, which is ended as a whole.

A SIGTERM to `dvc repro` ends DVC but not its stage, which would write its output while a second run may already be at
work. Here everything that a command started is ended with it.
"""

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from flows.machine.orphans import still_runs

POLL = 0.2  # seconds between two checks whether a silent command has ended


class TimeLimitError(TimeoutError):
    """A command exceeded its time limit, and was ended."""


class ClosedError(RuntimeError):
    """No command can be started, because `end_all` was called."""


class Session:
    """A running command and all processes that it started."""

    def __init__(self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None) -> None:
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None  # it is a pipe
        self.output = self.process.stdout
        self.reaped = False
        self.lock = threading.Lock()

    def leader_ended(self) -> bool:
        # WNOWAIT leaves the zombie, which keeps the session's id from being reused.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self.reaped or os.waitid(os.P_PID, self.process.pid, flags) is not None

    def members(self) -> list[psutil.Process]:
        """The living processes of the session, and their descendants, even those in a session of their own."""
        found = {}
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid:
                    found[process.pid] = process
                    found.update((child.pid, child) for child in process.children(recursive=True))
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return [process for process in found.values() if still_runs(process)]

    def send(self, number: int) -> list[psutil.Process]:
        """Sends a signal to every member. Returns the members."""
        with self.lock:
            if self.reaped:
                return []
            members = self.members()
            for process in members:
                try:
                    process.send_signal(number)
                except psutil.Error:
                    continue
            return members

    def reap(self) -> int:
        with self.lock:
            code = self.process.wait()
            self.reaped = True
        self.output.close()
        return code


class Processes:
    """The commands that run now. Use it in a `with`: leaving it ends all commands."""

    def __init__(self, grace: float = 10.0) -> None:
        self.grace = grace  # seconds between TERM and KILL
        self.live: set[Session] = set()
        self.closed = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()

    def run(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        time_limit: float | None = None,
    ) -> int:
        """Runs a command to its end. Returns its exit code, negative for a signal.

        What the command leaves running is ended too.

        Args:
            on_line: called with each line of stdout and stderr, in the order of arrival. Of a line that is redrawn
                with carriage returns it gets the last state.
            time_limit: in seconds.

        Raises:
            TimeLimitError: it exceeded the time limit.
            ClosedError: `end_all` was called before.
            OSError: it cannot be started.
        """
        with self.lock:
            if self.closed.is_set():
                raise ClosedError("no command is started any more")
            session = Session(command, cwd, env)
            self.live.add(session)
        try:
            follow(session, Lines(on_line), time_limit)
        finally:
            try:
                end([session], self.grace)
            finally:
                code = session.reap()
                with self.lock:
                    self.live.discard(session)
        return code

    def end_all(self) -> None:
        """Ends all commands at once; none can be started afterwards. Safe to call from any thread, and twice."""
        with self.lock:
            self.closed.set()
            sessions = list(self.live)
        with signals_ignored():
            end(sessions, self.grace)


def end(sessions: Sequence[Session], grace: float) -> None:
    """Sends SIGTERM to all, and SIGKILL to those still alive after `grace` seconds."""
    # Without threads: Python 3.12 cannot start any while it exits.
    remaining = [process for session in sessions for process in session.send(signal.SIGTERM)]
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and (remaining := [process for process in remaining if still_runs(process)]):
        time.sleep(0.05)
    # Repeated, because a member may have started another process meanwhile.
    while any(session.send(signal.SIGKILL) for session in sessions):
        time.sleep(0.05)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exits with 143 on SIGTERM, and ignores SIGHUP, inside the `with`.

    SIGTERM's default action would skip the cleanup that ends child processes and temporary servers. When the terminal
    is closed, the work goes on.
    """
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number)),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignores SIGINT and SIGTERM inside the `with`. A second Ctrl-C would leave running what is just being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_postponed() -> Iterator[None]:
    """A SIGINT or SIGTERM inside the `with` takes effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # Python runs signal handlers in the main thread only
        yield
        return
    numbers, came = (signal.SIGINT, signal.SIGTERM), []
    # Block both while their handlers change: an exception in between would leave one signal postponed for ever.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])  # delivered by the next line
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def follow(session: Session, lines: "Lines", time_limit: float | None) -> None:
    """Reads the output until the command has ended and nothing more is to be read.

    It does not read to the end of the file: what the command left running holds the pipe open.
    """
    deadline = None if time_limit is None else time.monotonic() + time_limit
    pipe = session.output
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ended = session.leader_ended()
            if deadline is not None and not ended and time.monotonic() > deadline:
                lines.finish()
                raise TimeLimitError(f"ended after its time limit of {time_limit:g} s")
            if selector.select(timeout=0 if ended else POLL):
                chunk = os.read(pipe.fileno(), 65536)
                lines.feed(chunk)
                if not chunk:
                    break
            elif ended:
                break
    lines.finish()
    while not session.leader_ended():  # it closed its output, but still runs
        time.sleep(POLL)
        if deadline is not None and time.monotonic() > deadline:
            raise TimeLimitError(f"ended after its time limit of {time_limit:g} s")


class Lines:
    """Joins chunks of bytes to whole lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line = on_line
        self.decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self.rest = ""

    def feed(self, chunk: bytes) -> None:
        *whole, self.rest = (self.rest + self.decode(chunk)).split("\n")
        for line in whole:
            self.emit(line)
        # Keep only the last state of a progress bar. A \r at the very end may be half of a \r\n.
        if "\r" in self.rest[:-1]:
            self.rest = self.rest[self.rest.rindex("\r", 0, -1) + 1 :]

    def finish(self) -> None:
        if self.rest:
            self.emit(self.rest)
            self.rest = ""

    def emit(self, line: str) -> None:
        self.on_line(line.rstrip("\r").rpartition("\r")[2])
