"""One stage by DVC's command line: `dvc repro --single-item STAGE`, and what its end means."""

import contextlib
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.graph import dvc_command
from flows.machine import hardware
from flows.machine.processes import ClosedError, Processes, TimeLimitError
from flows.project.errors import InputError
from flows.untrusted import masking
from flows.untrusted.escaping import printable

BAD_INPUT = 2  # the exit code of a stage that was given what it cannot use

# What DVC says when another one holds its lock, or a file that this stage reads or writes.
BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
BUSY_DELAYS = (1, 2, 5, 10, 30)  # seconds; the last one again and again
BUSY_PATIENCE = 3600  # seconds

# What DVC advises after each stage: once for all of them is enough, and the README has it.
ADVICE = re.compile(
    r"To track the changes with git, run:|\s+git add |To enable auto staging, run:|\s+dvc config core\.autostage|"
    r"Use `dvc push` to send your updates to remote storage"
)

LAST_LINES = 20  # of a failed stage, told again at the end


@dataclass(frozen=True)
class Outcome:
    """How one stage ended."""

    stage: str
    seconds: float
    problem: str | None = None  # None: it went well
    can_retry: bool = False
    last_lines: tuple[str, ...] = ()


class Repro:
    """Runs single stages: the part that knows DVC's command line and nothing of Prefect."""

    def __init__(
        self,
        root: Path,
        processes: Processes,
        say: Callable[[str, str], None],
        *,
        force: bool = False,
        time_limit: float | None = None,
        jobs: Mapping[str, int] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.processes = processes
        self.say = say  # (stage, line), for the terminal
        self.force = force
        self.time_limit = time_limit
        self.jobs = jobs or {}
        self.variables = variables or {}  # more of the environment

    def environment(self, stage: str, gpus: Sequence[str] = ()) -> dict[str, str]:
        """Of the stage's process: how many processes of its own it may run side by side, and its GPUs."""
        cores = self.jobs.get(stage, 1)
        jobs = {"TRAINYARD_JOBS": str(cores)}
        if cores < hardware.cores():
            # Else numpy and torch start a thread per core in each of the stages that run side by side.
            jobs["OMP_NUM_THREADS"] = str(cores)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        return jobs | dvc_command.environment({**self.variables, **visible})

    def __call__(self, stage: str, log: Callable[[str], None], gpus: Sequence[str] = ()) -> Outcome:
        """Runs a stage, again for as long as another DVC is in its way. Never raises for what a stage does.

        Args:
            log: told each line.
            gpus: the only ones that the stage sees, by what CUDA_VISIBLE_DEVICES calls them; by default all.
        """
        started = time.monotonic()
        delays = iter(BUSY_DELAYS)
        delay = BUSY_DELAYS[-1]
        while True:
            try:
                code, lines, problem = self.once(stage, log, gpus)
            except InputError as error:
                self.tell(stage, f"FAILED: {error}", log)
                return Outcome(stage, 0.0, str(error))
            busy = code and any(BUSY.search(line) for line in lines)
            waited = time.monotonic() - started
            if not busy or self.processes.closed.is_set() or waited > BUSY_PATIENCE:
                break
            delay = next(delays, delay)
            self.tell(stage, f"another DVC is at work on the same files: next try in {delay} s", log)
            self.processes.closed.wait(delay)
        seconds = time.monotonic() - started
        if problem is None and code == 0:
            self.tell(stage, f"done in {seconds:.1f} s", log)
            return Outcome(stage, seconds)
        cancelled = self.processes.closed.is_set()
        if cancelled:
            problem = "cancelled"
        problem, exit_code = (problem, None) if problem else explain(code, lines)
        can_retry = exit_code != BAD_INPUT and not cancelled
        self.tell(stage, f"FAILED after {seconds:.1f} s: {problem}", log)
        return Outcome(stage, seconds, problem, can_retry, tuple(lines)[-LAST_LINES:])

    def once(
        self, stage: str, log: Callable[[str], None], gpus: Sequence[str] = ()
    ) -> tuple[int, list[str], str | None]:
        """DVC's exit code, the last lines, and what went wrong where it was not DVC's or the stage's doing. Raises
        InputError where DVC has no site cache to use."""
        lines: deque[str] = deque(maxlen=100)

        def on_line(line: str) -> None:
            if line.strip() and not ADVICE.match(line):
                # DVC shows names of files and addresses of remotes as they are.
                line = masking.text(printable(line.expandtabs()))
                lines.append(line)
                self.tell(stage, line, log)

        repro = ["repro", "--single-item", *(["--force"] if self.force else []), stage]
        env = self.environment(stage, gpus)
        try:
            code = dvc_command.run(self.root, self.processes, repro, on_line, env=env, time_limit=self.time_limit)
        except TimeLimitError as error:
            return 1, list(lines), str(error)
        except ClosedError:
            return 1, list(lines), "cancelled"
        return code, list(lines), None

    def tell(self, stage: str, line: str, log: Callable[[str], None]) -> None:
        self.say(stage, line)
        log(line)


def explain(code: int, lines: Sequence[str]) -> tuple[str, int | None]:
    """What happened, and the exit code of the stage's command where DVC told it (its own is 255 or so)."""
    told = [match for line in lines if (match := re.search(r"exited with (-?\d+)", line))]
    if not told:
        return f"dvc exited with {code}", None
    exit_code = int(told[-1].group(1))
    if exit_code == BAD_INPUT:
        return "bad input (exit code 2)", exit_code
    number = -exit_code if exit_code < 0 else exit_code - 128
    with contextlib.suppress(ValueError):
        return f"its command was ended by {signal.Signals(number).name}", exit_code
    return f"its command exited with {exit_code}", exit_code
