"""Learning curves: a panel a variant, median and range over seeds by epoch, the baseline's behind them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row

WIDTH, HEIGHT = 165, 105
TICKS = [number * 10.0**power for power in range(-6, 7) for number in (1, 3)]


def learning_curves(
    rows: Sequence[Row], baseline: str, column: str = "validation_nll", beside: str | None = None
) -> Chart:
    """Draws a column of a study's curves, logarithmic.

    Args:
        rows: variant, seed, epoch, and the columns, such as validation_nll and training_loss (nats), above 0.
        column: drawn as a line with a band from the lowest to the highest seed.
        beside: one more column, drawn as a dotted line: where training and validation part, a network overfits.
    """
    points = summarized(rows, column, beside)
    ends: dict[str, int] = defaultdict(int)
    for row in rows:
        ends[row["variant"]] = max(ends[row["variant"]], row["epoch"])
    # Not of a variant whose trainings all diverged before its last epoch.
    last = {point["variant"]: point["median"] for point in points if point["epoch"] == ends[point["variant"]]}
    order = list(dict.fromkeys(row["variant"] for row in rows))
    behind = [
        {**point, "variant": variant, "behind": True}
        for variant in order
        if variant != baseline
        for point in points
        if point["variant"] == baseline
    ]
    words = column.replace("_", " ")
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickCount=4, tickMinStep=1, grid=False, format="d"))
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("median:Q", title=words, scale=scale, axis=alt.Axis(values=TICKS, format="~g"))
    base = alt.Chart().encode(x=x)
    layers = [
        base.mark_line(color=theme.FAINT, strokeWidth=1.5).encode(y=y).transform_filter("datum.behind"),
        base.mark_area(color=theme.BLUE, opacity=0.2).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
        .transform_filter("!datum.behind"),
        base.mark_line(color=theme.BLUE, strokeWidth=2).encode(y=y).transform_filter("!datum.behind"),
    ]  # fmt: skip
    if beside:
        dotted = base.mark_line(color=theme.INK, strokeWidth=1.5, strokeDash=[2, 2])
        layers.append(dotted.encode(y=alt.Y("beside:Q", scale=scale)).transform_filter("!datum.behind"))
    columns = min(theme.COLUMNS, len(order))
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    chart = chart.facet(
        facet=alt.Facet("variant:N", sort=order, title=None), columns=columns, data=theme.data([*behind, *points])
    )
    first = min(last, key=lambda variant: last[variant]) if last else baseline
    return theme.finished(
        chart,
        f"{first} ends with the lowest {words}" + (f": {last[first]:.3g}" if last else ""),
        f"Median and range over seeds; grey: {baseline}"
        + (f"; dotted: {beside.replace('_', ' ')}." if beside else "."),
        (WIDTH + 18) * columns + 60,
    )


def summarized(rows: Sequence[Row], column: str, beside: str | None) -> list[dict]:
    """Median, lowest and highest of the seeds by variant and epoch. What is not finite, or not above 0, is left out: a
    line of a training that diverged ends there."""
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["variant"], row["epoch"]].append(row)
    points = []
    for (variant, epoch), seeds in found.items():
        values = [row[column] for row in seeds if drawable(row[column])]
        if not values:
            continue
        point = {"variant": variant, "epoch": epoch, "median": statistics.median(values), "behind": False}
        others = [row[beside] for row in seeds if drawable(row[beside])] if beside else []
        point |= {"low": min(values), "high": max(values), "beside": statistics.median(others) if others else None}
        points.append(point)
    return points


def drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0
