"""Seconds and peak memory of each step, size after size."""

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.aside import serve
from benchmarks.measure import ForeignLoad, seconds

# A step is repeated until it has taken a second in all.
ENOUGH = 1.0


class Steps:
    """Runs steps, and records the points of each.

    Args:
        most_runs: maximal number of runs of a step at each size. The very first run is a warm-up, with the step's
            imports; with 1 there is no warm-up.

    Attributes:
        points: for each step a list by size of: size, seconds (median), megabytes (the process's peak), load (of other
            processes), and, if there is one, goal (seconds for the largest size).
    """

    def __init__(self, most_runs: int) -> None:
        self.most_runs = most_runs
        self.points: dict[str, list[dict]] = {}

    def take(self, step: str, size: int, action: Callable[[], object]) -> None:
        """Runs a step in this process, whose memory then includes what it held before."""
        self.measure(step, size, lambda: in_here(action))

    def run(self, step: str, size: int, *arguments: str, goal: float | None = None) -> None:
        """Runs a step in a new process, `python -m ARGUMENTS`."""
        self.measure(step, size, lambda: in_a_process(*arguments), goal)

    def measure(
        self, step: str, size: int, action: Callable[[], tuple[float, float]], goal: float | None = None
    ) -> None:
        if step not in self.points and self.most_runs > 1:
            action()
        times, peaks = [], []
        with ForeignLoad() as load:
            while sum(times) < ENOUGH and len(times) < self.most_runs:
                taken, peak = action()
                times.append(taken)
                peaks.append(peak)
        point = {"size": size, "seconds": statistics.median(times), "megabytes": max(peaks), "load": load.share}
        self.points.setdefault(step, []).append(point | ({"goal": goal} if goal else {}))


def grow(at: Callable[[Steps, int], None]) -> None:
    """The main function of a module's process: receives sizes and `most_runs`, and answers with each step's points.

    Args:
        at: runs all steps at one size, in an empty current folder.
    """

    def call(sizes: list[int], most_runs: int) -> dict:
        steps, start = Steps(most_runs), Path.cwd()
        for size in sizes:
            folder = start / str(size)
            folder.mkdir()
            os.chdir(folder)
            at(steps, size)
        return steps.points

    serve(lambda settings: call)


def in_here(action: Callable[[], object]) -> tuple[float, float]:
    """The seconds of an action, and the peak of this process's memory meanwhile, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak; Linux only
    taken = seconds(action)
    peak = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return taken, int(peak[1]) / 1000


# A small process starts the measured one, because Linux counts its parent's memory in a process's peak.
START = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, code, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss / 1000]))
sys.exit(os.waitstatus_to_exitcode(code) != 0)
"""


def in_a_process(*arguments: str) -> tuple[float, float]:
    """The seconds of `python -m ARGUMENTS`, and the largest peak memory of its processes, in MB.

    Raises:
        RuntimeError: it failed; the message has its output.
    """
    # DVC's stages run `python`, which has to be this one.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-c", START, sys.executable, "-m", *arguments]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    taken, peak = json.loads(done.stdout)
    return taken, peak
