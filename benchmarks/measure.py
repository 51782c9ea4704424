"""Measures so that figures can be trusted on a noisy machine: two ways in turn (A B A B), medians, ratios pair by pair,
and the load of other processes meanwhile."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

RUNS = 5
# A ratio nearer to one than this means nothing.
NOISE = 1.1


class ForeignLoad:
    """Measures the share of the machine's CPU time that other processes use while its block runs.

    share: 0 to 1, of the time of all cores. Other processes are those outside of this one's tree; time that a
    hypervisor takes away counts too. The clock ticks every 10 ms, so the figure is rough for less than a second.
    """

    def __enter__(self) -> "ForeignLoad":
        self.before = time.perf_counter(), busy_seconds(), own_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        now = time.perf_counter(), busy_seconds(), own_seconds()
        wall, busy, own = (after - before for after, before in zip(now, self.before))
        self.share = min(1.0, max(0.0, busy - own) / (wall * psutil.cpu_count()))


def busy_seconds() -> float:
    """Seconds of CPU time that the machine has spent since it started, without idle time."""
    times = psutil.cpu_times()._asdict()
    # The fields guest and guest_nice are part of user and nice.
    return sum(value for name, value in times.items() if name not in ("idle", "iowait", "guest", "guest_nice"))


def own_seconds() -> float:
    """Seconds of CPU time of this process and its descendants.

    A child that has ended counts in its parent's `children_*`, once the parent has waited for it. A child whose parent
    ended first is lost, and counts as foreign.
    """
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, children_user, children_system
    return total


def seconds(action: Callable[[], object]) -> float:
    return timed(action)[0]


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """The seconds that an action takes, and its result."""
    start = time.perf_counter()
    returned = action()
    return time.perf_counter() - start, returned


def alone(action: Callable[[], object], runs: int = RUNS, warm_up: int = 1) -> dict:
    """Median, smallest and largest seconds of `runs` calls after `warm_up` others, their results, and the foreign
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
    """Runs both in turn, `runs` times each after `warm_up` others.

    Returns:
        ours, other: median seconds; with the suffixes _min and _max their range, with _seconds and _returned lists of
        each run's seconds and result.
        ratio, ratio_min, ratio_max: median, smallest and largest other / ours, pair by pair.
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
    """The row of two ways whose actions returned their accuracy, or None.

    Args:
        times: the result of `in_turn`.
        goal: seconds that ours may take. The goal is missed too if ours is less accurate than the other.
        chance: the accuracy of a guess; None for random images.
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
    """A median and its range as text, with three significant digits."""
    return f"{median:.3g}{unit} ({smallest:.3g} to {largest:.3g})"


def ratio(times: dict) -> str:
    """How many times as long the other way takes, as text, and whether that means anything."""
    noise = 1 / NOISE < times["ratio"] < NOISE
    return spread(times["ratio"], times["ratio_min"], times["ratio_max"]) + (", noise" if noise else "")


def accuracy(reached: list[float]) -> str:
    """Mean and standard deviation over the runs, as text. Each run has another seed."""
    deviation = f" ± {statistics.stdev(reached):.2%}" if len(reached) > 1 else ""
    return f"{statistics.mean(reached):.2%}{deviation}"


def as_accurate(ours: list[float], other: list[float]) -> bool:
    """Whether our mean is below the other's by at most half a point or four standard errors, whichever is more."""
    both = [reached for reached in (ours, other) if len(reached) > 1]
    error = sum(statistics.variance(reached) / len(reached) for reached in both) ** 0.5
    return statistics.mean(other) - statistics.mean(ours) <= max(0.005, 4 * error)


def command(*arguments: str, cwd=None) -> Callable[[], None]:
    """An action that runs `python -m ARGUMENTS` to its end. On failure it raises CalledProcessError with the output."""
    # DVC's stages run `python`, which has to be this one.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path}

    def call() -> None:
        subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, env=env, check=True, capture_output=True)

    return call
