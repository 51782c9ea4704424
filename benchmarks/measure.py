"""Figures that can be trusted on a noisy machine: two ways in turn, A B A B, medians, the ratio pair by pair, and how
busy others kept the machine meanwhile."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

RUNS = 5
# A ratio nearer to one than this says nothing.
NOISE = 1.1


class ForeignLoad:
    """While its block runs: the share of the machine's CPU time that processes outside of this one's tree used.

    share: 0 to 1, of the time of all cores, what a hypervisor took away included. The clock ticks every 10 ms, so that
    of a block of less than a second it is a rough figure.
    """

    def __enter__(self) -> "ForeignLoad":
        self.before = time.perf_counter(), busy_seconds(), own_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        now = time.perf_counter(), busy_seconds(), own_seconds()
        wall, busy, own = (after - before for after, before in zip(now, self.before))
        self.share = min(1.0, max(0.0, busy - own) / (wall * psutil.cpu_count()))


def busy_seconds() -> float:
    """CPU time that the machine has spent on anything since it started."""
    times = psutil.cpu_times()._asdict()
    # Guests are part of user and nice.
    return sum(value for name, value in times.items() if name not in ("idle", "iowait", "guest", "guest_nice"))


def own_seconds() -> float:
    """CPU time of this process and everything below it. A child that has ended is in its parent's `children_*` once the
    parent has waited for it; one whose parent ended first is lost, and counts as foreign."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, children_user, children_system
    return total


def seconds(action: Callable[[], object]) -> float:
    return timed(action)[0]


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what the action returned."""
    start = time.perf_counter()
    returned = action()
    return time.perf_counter() - start, returned


def alone(action: Callable[[], object], runs: int = RUNS, warm_up: int = 1) -> dict:
    """Median, smallest and largest seconds of `runs` runs after `warm_up` more, what they returned, and the foreign
    load."""
    for _ in range(warm_up):
        action()
    with ForeignLoad() as load:
        measured = [timed(action) for _ in range(runs)]
    times = [taken for taken, _ in measured]
    return {
        "median": statistics.median(times), "min": min(times), "max": max(times), "load": load.share,
        "returned": [returned for _, returned in measured],
    }  # fmt: skip


def in_turn(ours: Callable[[], object], other: Callable[[], object], runs: int = RUNS, warm_up: int = 1) -> dict:
    """Both in turn, `runs` times each after `warm_up` more.

    Returns:
        ours, other: median seconds, and with _min and _max their range; with _seconds and _returned the lists of what
        each run took and what its action returned; ratio, ratio_min, ratio_max: median, smallest and largest
        other / ours, pair by pair;
        load: the foreign load.
    """
    for _ in range(warm_up):
        ours()
        other()
    pairs = []
    with ForeignLoad() as load:
        for _ in range(runs):
            pairs.append((timed(ours), timed(other)))
    result: dict = {"load": load.share}
    for name, measured in zip(("ours", "other"), zip(*pairs)):
        times = [taken for taken, _ in measured]
        result |= {name: statistics.median(times), f"{name}_min": min(times), f"{name}_max": max(times)}
        result[f"{name}_seconds"] = times
        result[f"{name}_returned"] = [returned for _, returned in measured]
    ratios = [theirs / own for (own, _), (theirs, _) in pairs]
    return result | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def compared(what: str, times: dict, goal: float | None = None, chance: float | None = None) -> dict:
    """The row of two ways in turn whose actions returned the accuracy that they reached, or None.

    Args:
        times: of `in_turn`.
        goal: seconds that ours may take; where the other one's accuracy is out of reach, it is not reached either.
        chance: the accuracy of a guess, where the images show something.
    """
    row = {
        "what": what,
        "ours": spread(times["ours"], times["ours_min"], times["ours_max"], " s"),
        "other": spread(times["other"], times["other_min"], times["other_max"], " s"),
        "ratio": ratio(times),
        "load": times["load"],
        "measured": times,
    }
    equal = True
    if chance is not None:
        ours, other = times["ours_returned"], times["other_returned"]
        row["accuracy"] = f"{accuracy(ours)} / {accuracy(other)}"
        equal = statistics.mean(ours) > chance and as_accurate(ours, other)
        if not equal:
            row["accuracy"] += ", NOT EQUAL"
    if goal is not None:
        row |= {"goal": f"at most {goal:g} s", "reached": equal and times["ours"] <= goal}
    return row


def spread(median: float, smallest: float, largest: float, unit: str = "") -> str:
    """Three significant digits of a median and its range."""
    return f"{median:.3g}{unit} ({smallest:.3g} to {largest:.3g})"


def ratio(times: dict) -> str:
    """How many times as long the other one takes, and whether that says anything."""
    noise = 1 / NOISE < times["ratio"] < NOISE
    return spread(times["ratio"], times["ratio_min"], times["ratio_max"]) + (", noise" if noise else "")


def accuracy(reached: list[float]) -> str:
    """Mean and standard deviation over the runs, each of which had a seed of its own."""
    deviation = f" ± {statistics.stdev(reached):.2%}" if len(reached) > 1 else ""
    return f"{statistics.mean(reached):.2%}{deviation}"


def as_accurate(ours: list[float], other: list[float]) -> bool:
    """Whether the mean of ours is no further below the other's than half a point, or four standard errors."""
    both = [reached for reached in (ours, other) if len(reached) > 1]
    error = sum(statistics.variance(reached) / len(reached) for reached in both) ** 0.5
    return statistics.mean(other) - statistics.mean(ours) <= max(0.005, 4 * error)


def command(*arguments: str, cwd=None) -> Callable[[], None]:
    """Runs `python -m ARGUMENTS` to its end; raises CalledProcessError with its output where it fails."""
    # DVC's stages say `python`: this very one.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path}

    def call() -> None:
        subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, env=env, check=True, capture_output=True)

    return call
