"""Sensitivity to a hyper-parameter: the error by its value, a panel a variant, divergence at the top."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row

WIDTH, HEIGHT = 165, 105
TOP = 100.0  # percent: where a diverged training is drawn
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)
NEAR = 1.0  # points: a value this near to the best is good, too


def sensitivity(rows: Sequence[Row], name: str = "learning rate") -> Chart:
    """Draws median and range over seeds of the error against the value of a hyper-parameter, on logarithmic axes.

    Args:
        rows: a training each: variant, value (above 0), error (percent; None where it diverged), default (whether it
            is the published default's value), chosen (whether tuning chose it).
        name: of the hyper-parameter.
    """
    errors = [row["error"] for row in rows if row["error"]]
    least = min(errors, default=1.0) / 1.3  # an error of 0 is drawn here: a logarithm has none
    grouped: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["variant"]][row["value"]].append(row)
    points, good = [], {}
    for variant, by_value in grouped.items():
        medians = {}
        for value, found in sorted(by_value.items()):
            known = [max(row["error"], least) for row in found if row["error"] is not None]
            failed = len(found) - len(known)
            medians[value] = statistics.median([*known, *[TOP] * failed])
            points.append(
                {
                    "variant": variant, "value": value, "median": medians[value], "low": min(known, default=TOP),
                    "high": TOP if failed else max(known), "failed": failed, "top": TOP,
                    "edge": value in (min(by_value), max(by_value)),
                    "default": any(row["default"] for row in found), "chosen": any(row["chosen"] for row in found),
                }
            )  # fmt: skip
        good[variant] = sum(median <= min(medians.values()) + NEAR for median in medians.values())
    values = sorted({point["value"] for point in points})
    x = alt.X(
        "value:Q", title=None, scale=alt.Scale(type="log", domain=[values[0] / 1.5, values[-1] * 1.5], nice=False),
        axis=alt.Axis(format="~g", values=decades(values), grid=False),
    )  # fmt: skip
    scale = alt.Scale(type="log", domain=[least, TOP * 1.15], nice=False, clamp=True)
    y = alt.Y(
        "median:Q", title="error (%)", scale=scale,
        axis=alt.Axis(values=[tick for tick in TICKS if tick >= least], format="~g"),
    )  # fmt: skip
    base = alt.Chart().encode(x=x)
    chart = alt.layer(
        base.mark_rule(color=theme.FAINT, strokeDash=[3, 3]).transform_filter("datum.default"),
        base.mark_area(color=theme.BLUE, opacity=0.2).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(color=theme.BLUE, strokeWidth=2).encode(y=y),
        base.mark_point(shape="cross", filled=True, angle=45, size=70, opacity=1, color=theme.VERMILION)
        .encode(y=alt.Y("top:Q", scale=scale)).transform_filter("datum.failed > 0"),
        base.mark_point(filled=True, size=70, opacity=1, color=theme.INK, stroke="white").encode(y=y)
        .transform_filter("datum.chosen && !datum.edge"),
        base.mark_point(filled=True, size=55, opacity=1, color="white", stroke=theme.INK, strokeWidth=2).encode(y=y)
        .transform_filter("datum.chosen && datum.edge"),
    ).properties(width=WIDTH, height=HEIGHT)  # fmt: skip
    columns = min(theme.COLUMNS, len(grouped))
    chart = chart.facet(
        facet=alt.Facet("variant:N", sort=list(grouped), title=None), columns=columns, data=theme.data(points)
    )
    most, fewest = max(good, key=lambda one: good[one]), min(good, key=lambda one: good[one])
    title = f"{most} is within {NEAR:g} point of its best at {good[most]} of {len(grouped[most])} values of the {name}"
    if good[most] > good[fewest]:
        title += f", {fewest} at {good[fewest]}"
    return theme.finished(
        chart,
        title,
        f"Validation error by {name}: median and range over seeds. Dot: chosen, hollow at the edge of what was "
        "tried; dashed: the published default; × at the top: diverged with at least one seed.",
        (WIDTH + 18) * columns + 60,
    )


def decades(values: Sequence[float]) -> list[float]:
    """The powers of ten within the values' range; the values themselves where there are none."""
    found = [10.0**power for power in range(-12, 13) if values[0] / 1.5 <= 10.0**power <= values[-1] * 1.5]
    return found[:: -(-len(found) // 4)] if len(found) > 1 else list(values)
