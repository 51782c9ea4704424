"""How time and memory grow: with images, replicas, members (a stage each), parameters and runs in MLflow.

Each row has the median seconds and the peak memory of a step at each size, and two exponents e of growth like
size to the power of e: the least-squares slope of the logarithms over all sizes, and the slope between the two largest
sizes. Nothing is subtracted, so a fixed cost makes the first exponent smaller. A step misses its goal if it grows
faster than its input between the two largest sizes.
"""

import math
import statistics
import tempfile
from pathlib import Path

from benchmarks.aside import Aside
from benchmarks.growing.members import DVC_ALONE

SIZES = {
    "images": (1_000, 10_000, 60_000),
    "replicas": (1, 4, 16),
    "members": (10, 100, 1_000),
    "parameters": (10_000, 100_000, 1_000_000, 10_000_000),
    "runs": (100, 1_000, 10_000),
}
# Largest exponent, between the two largest sizes, that counts as linear: caches raise it above 1.
LINEAR = 1.3


def measure(sizes: dict[str, tuple[int, ...]] = SIZES, most_runs: int = 5) -> list[dict]:
    rows = []
    for kind, given in sizes.items():
        # In a new process, so that its peak memory is that of this step alone.
        with tempfile.TemporaryDirectory() as folder, Aside(f"benchmarks.growing.{kind}", {}, Path(folder)) as grow:
            steps = grow(sizes=given, most_runs=most_runs)
        rows += [
            row(f"{kind}: {step}", points, steps.get(step + DVC_ALONE))
            for step, points in steps.items()
            if not step.endswith(DVC_ALONE)
        ]
    return rows


def row(what: str, points: list[dict], other: list[dict] | None = None) -> dict:
    """The row of a step, beside another step at the same sizes."""
    sizes = " / ".join(f"{point['size']:,}" for point in points)
    result = {"what": f"growth with {what}, at {sizes}", "ours": text(points)}
    if other:
        result |= {"other": text(other), "ratio": f"{other[-1]['seconds'] / points[-1]['seconds']:.2f} at the largest"}
    last = slope(points[-2:], "seconds")
    goal = points[-1].get("goal")
    return result | {
        "load": max(point["load"] for point in [*points, *(other or [])]),
        "goal": f"at most {goal:g} s at the largest" if goal else f"exponent at most {LINEAR}",
        "reached": points[-1]["seconds"] <= goal if goal else last <= LINEAR,
        "measured": {"points": points, "other": other},
    }


def text(points: list[dict]) -> str:
    seconds = " / ".join(f"{point['seconds']:.3g}" for point in points)
    megabytes = " / ".join(f"{point['megabytes']:.0f}" for point in points)
    return f"{seconds} s, {exponents(points, 'seconds')}; {megabytes} MB, {exponents(points, 'megabytes')}"


def exponents(points: list[dict], quantity: str) -> str:
    return f"e = {slope(points, quantity):.2f} (last {slope(points[-2:], quantity):.2f})"


def slope(points: list[dict], quantity: str) -> float:
    """The least-squares slope of the quantity's logarithm over that of the size."""
    logarithms = [(math.log(point["size"]), math.log(point[quantity])) for point in points]
    return statistics.linear_regression(*zip(*logarithms)).slope
