"""Runs one stage by DVC's command line, `dvc repro --single-item STAGE`, and explains how it ended."""

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

BAD_INPUT = 2  # the exit code of a stage whose input is wrong

# DVC's message when another DVC holds its lock, or a file that this stage reads or writes.
BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
BUSY_DELAYS = (1, 2, 5, 10, 30)  # seconds; the last one is repeated
BUSY_PATIENCE = 3600  # seconds

# DVC's advice after each stage. It is not shown: the README has it.
ADVICE = re.compile(
    r"To track the changes with git, run:|\s+git add |To enable auto staging, run:|\s+dvc config core\.autostage|"
    r"Use `dvc push` to send your updates to remote storage"
)

LAST_LINES = 20  # of a failed stage's output, repeated at the end


@dataclass(frozen=True)
class Outcome:
    """How one stage ended."""

    stage: str
    seconds: float
    problem: str | None = None  # None: it succeeded
    can_retry: bool = False
    last_lines: tuple[str, ...] = ()


class Repro:
    """Runs single stages by DVC's command line. Knows nothing of Prefect.

    Args:
        say: called with each stage and line, for the terminal.
        time_limit: seconds for each stage.
        jobs: by stage, how many CPU cores it may use; by default 1.
        variables: more environment variables.
    """

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
        self.say = say
        self.force = force
        self.time_limit = time_limit
        self.jobs = jobs or {}
        self.variables = variables or {}

    def environment(self, stage: str, gpus: Sequence[str] = ()) -> dict[str, str]:
        """The environment of a stage's process: how many cores it may use, its GPUs, this same Python first in PATH."""
        cores = self.jobs.get(stage, 1)
        jobs = {"TRAINYARD_JOBS": str(cores)}
        if cores < hardware.cores():
            # Else numpy and torch start a thread per core in each of the parallel stages.
            jobs["OMP_NUM_THREADS"] = str(cores)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        return jobs | dvc_command.environment({**self.variables, **visible})

    def __call__(self, stage: str, log: Callable[[str], None], gpus: Sequence[str] = ()) -> Outcome:
        """Runs a stage, and retries while another DVC is in its way. A stage that fails raises nothing.

        Args:
            log: called with each line.
            gpus: names, as in CUDA_VISIBLE_DEVICES, of the only GPUs that the stage sees; by default all.
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
        """Runs DVC once. Returns its exit code, its last lines, and the problem where we ended it, else None.

        Raises InputError where DVC has no private site cache.
        """
        lines: deque[str] = deque(maxlen=100)

        def on_line(line: str) -> None:
            if line.strip() and not ADVICE.match(line):
                # DVC prints names of files and URLs of remotes unescaped.
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
    """What happened, in words, and the exit code of the stage's command where DVC printed it (DVC's own is 255)."""
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
