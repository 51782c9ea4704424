"""Figures that can be trusted on a noisy machine: two ways in turn, A B A B, medians and the ratio pair by pair."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

RUNS = 5


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alone(action: Callable[[], object], runs: int = RUNS, warm_up: int = 1) -> dict[str, float]:
    """Median, smallest and largest seconds of `runs` runs after `warm_up` more."""
    for _ in range(warm_up):
        action()
    times = [seconds(action) for _ in range(runs)]
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def in_turn(ours: Callable[[], object], other: Callable[[], object], runs: int = RUNS) -> dict[str, float]:
    """Median seconds of both after a warm-up, and the median, smallest and largest of `runs` ratios other / ours."""
    ours()
    other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(runs)]
    ratios = [theirs / own for own, theirs in pairs]
    return {
        "ours": statistics.median(own for own, _ in pairs),
        "other": statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def command(*arguments: str, cwd=None) -> Callable[[], None]:
    """Runs `python -m ARGUMENTS` to its end; raises CalledProcessError with its output where it fails."""
    # DVC's stages say `python`: this very one.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path}

    def call() -> None:
        subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, env=env, check=True, capture_output=True)

    return call
