"""What a variant costs: its score by the number of trials, steps to a target, and performance profiles."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row
from flows.project.errors import counted

WIDTH, HEIGHT, STEP = 330, 330, 22
PANEL = 165, 70
LABELS = 150  # pixels beside a chart for the names at the ends of its lines


def by_budget(rows: Sequence[Row], what: str = "error (%)") -> Chart:
    """Draws the error against the number of trials that tuning may spend, a line a variant with its name at its end.

    Args:
        rows: variant, trials, error (above 0; percent), word (of `theme.WORDS`).
        what: the title of the vertical axis.
    """
    by_trials: dict[int, dict[str, float]] = defaultdict(dict)
    ends: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["trials"]):
        by_trials[row["trials"]][row["variant"]] = row["error"]
        ends[row["variant"]] = row
    # Budgets that all variants have spent: others extended their grids, and would be compared with fewer trials.
    equal = [trials for trials, found in by_trials.items() if len(found) == len(ends)]
    few, many = equal[0], equal[-1]
    first, last = (min(by_trials[trials], key=lambda name: by_trials[trials][name]) for trials in (few, many))
    errors = [row["error"] for row in rows]
    low, high = min(errors) / 1.1, max(errors) * 1.1
    height = max(HEIGHT, int(theme.LABEL_GAP * len(ends)))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    x = alt.X(
        "trials:O", title="trials of tuning", axis=alt.Axis(labelAngle=0, grid=False), scale=alt.Scale(padding=0.1)
    )
    base = alt.Chart(theme.data(rows)).encode(
        x=x, y=alt.Y("error:Q", title=what, scale=scale, axis=alt.Axis(tickCount=5, format="~g")),
        detail="variant:N",
    )  # fmt: skip
    named = [{"variant": name, "word": row["word"], "at": row["error"]} for name, row in ends.items()]
    labels = theme.names_beside(named, scale, (low, high), WIDTH, height)
    chart = alt.layer(*theme.word_lines(base), *labels)
    if few == many:
        title = f"{first} is best with {counted(few, 'trial')}"
    elif first == last:
        title = f"{first} is best with {counted(few, 'trial')} and with {counted(many, 'trial')}"
    else:
        title = f"{first} is best with {counted(few, 'trial')}, {last} with {counted(many, 'trial')}"
    return theme.finished(
        chart.properties(width=WIDTH, height=height),
        title,
        "Held-out error of the training that is best on validation; trials go from the published default outwards. "
        f"Shapes say {theme.WORD_KEY}.",
        WIDTH + LABELS + 60,
    )


def steps_to_target(rows: Sequence[Row], target: str, unit: str = "steps") -> Chart:
    """Draws when each variant reaches the target: a dot a seed, a bar at the median, and a miss at the right edge.

    Args:
        rows: a variant each: label, variant, amounts (one a seed, above 0; infinite for a miss).
        target: such as "97% validation accuracy".
    """
    medians = {row["label"]: statistics.median(row["amounts"]) for row in rows}
    known = [amount for row in rows for amount in row["amounts"] if math.isfinite(amount)]
    least, most = min(known, default=1.0), max(known, default=10.0)
    never = most * (most / least) ** 0.15 * 1.3
    ordered = sorted(rows, key=lambda row: (medians[row["label"]], statistics.fmean(map(math.isinf, row["amounts"]))))
    y = alt.Y("label:N", sort=[row["label"] for row in ordered], title=None,
              axis=alt.Axis(domain=False, ticks=False, labelPadding=8, labelFontSize=13))  # fmt: skip
    x = alt.X(
        "amount:Q", title=f"{unit} to {target}", axis=alt.Axis(tickCount=5, format="~s"),
        scale=alt.Scale(type="log", domain=[least / 1.1, never * 1.05], nice=False),
    )  # fmt: skip
    dots, bars, texts = [], [], []
    for row in ordered:
        dots += [
            {"label": row["label"], "amount": min(amount, never), "missed": math.isinf(amount)}
            for amount in row["amounts"]
        ]
        median, missed = medians[row["label"]], sum(map(math.isinf, row["amounts"]))
        if math.isfinite(median):
            bars.append({"label": row["label"], "amount": median})
        said = f"{median:,.4g}" if math.isfinite(median) else "never"
        texts.append(
            {"label": row["label"], "text": said, "note": f"{missed} of {len(row['amounts'])} miss" if missed else ""}
        )
    base, written = alt.Chart(theme.data(dots)).encode(x=x, y=y), alt.Chart(theme.data(texts)).encode(y=y)
    chart = alt.layer(
        base.mark_circle(size=30, opacity=0.55, color=theme.BLUE).transform_filter("!datum.missed"),
        base.mark_point(shape="cross", filled=True, angle=45, size=50, color=theme.VERMILION, opacity=0.7)
        .transform_filter("datum.missed"),
        alt.Chart(theme.data(bars)).mark_tick(thickness=3, size=15, color=theme.INK).encode(x=x, y=y),
        written.mark_text(align="right", fontSize=13).encode(x=alt.value(WIDTH + 62), text="text:N"),
        written.mark_text(align="left", fontSize=12, color=theme.VERMILION)
        .encode(x=alt.value(WIDTH + 74), text="note:N"),
    )  # fmt: skip
    first, missing = ordered[0], sum(map(math.isinf, medians.values()))
    title = f"{first['variant']} is first at {target}, after {medians[first['label']]:,.4g} {unit}"
    if missing == len(rows):
        title = f"None reaches {target} with most of its seeds"
    elif missing:
        title += f"; {missing} of {len(rows)} {'does' if missing == 1 else 'do'} not get there with most seeds"
    return theme.finished(
        chart.properties(width=WIDTH, height=STEP * len(rows)),
        title,
        "Dots: seeds; bar and number: their median; × at the right: a seed that never reaches it.",
        WIDTH + 290,
    )


def performance_profile(rows: Sequence[Row], baseline: str, what: str = "steps to target", most: float = 16.0) -> Chart:
    """Draws on which share of the problems each variant costs at most so many times what the cheapest does: a panel a
    variant, the best first, the baseline's line behind.

    Source: Dolan and Moré, Benchmarking optimization software with performance profiles, Mathematical Programming,
    2002.

    Args:
        rows: variant, problem (such as a dataset), cost (above 0; infinite where it fails).
        what: the cost.
        most: times the cheapest, the end of the axis.
    """
    shares = profile(rows, most)
    # The area below the line, on the logarithmic axis.
    areas = {
        name: sum(share * math.log(end / start) for (start, share), (end, _) in itertools.pairwise(steps))
        for name, steps in shares.items()
    }
    order = sorted(shares, key=lambda name: -areas[name])
    points = [
        {"variant": name, "ratio": ratio, "share": share, "behind": of != name}
        for name in order
        for of in dict.fromkeys((baseline, name))
        for ratio, share in shares[of]
    ]
    x = alt.X(
        "ratio:Q", title=None, axis=alt.Axis(values=[1, 2, 4, 8, 16], format="~g", grid=False),
        scale=alt.Scale(type="log", base=2, domain=[1, most], nice=False),
    )  # fmt: skip
    y = alt.Y("share:Q", title="datasets", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=2))
    base = alt.Chart().encode(x=x, y=y)
    columns = min(theme.COLUMNS, len(order))
    chart = alt.layer(
        base.mark_line(interpolate="step-after", color=theme.FAINT, strokeWidth=2).transform_filter("datum.behind"),
        base.mark_area(interpolate="step-after", color=theme.BLUE, opacity=0.15).transform_filter("!datum.behind"),
        base.mark_line(interpolate="step-after", color=theme.BLUE, strokeWidth=2).transform_filter("!datum.behind"),
    ).properties(width=PANEL[0], height=PANEL[1])
    chart = chart.facet(facet=alt.Facet("variant:N", sort=order, title=None), columns=columns, data=theme.data(points))
    best = max(order, key=lambda name: shares[name][0][1])
    number = len({row["problem"] for row in rows})
    return theme.finished(
        chart,
        f"{best} is cheapest on {round(shares[best][0][1] * number)} of {number} datasets",
        f"Share of the datasets with at most so many times the least {what}: at the left how often it is the cheapest, "
        f"at the right how often it gets there at all. Grey: {baseline}.",
        (PANEL[0] + 18) * columns + 60,
    )


def profile(rows: Sequence[Row], most: float) -> dict[str, list[tuple[float, float]]]:
    """By variant the steps of its performance profile: ratios from 1 to `most`, and the share of problems within each.

    A problem that nobody solves counts against all.
    """
    problems = sorted({row["problem"] for row in rows})
    cheapest = {
        problem: min((row["cost"] for row in rows if row["problem"] == problem), default=math.inf)
        for problem in problems
    }
    found = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        ratios = sorted(
            row["cost"] / cheapest[row["problem"]]
            for row in rows
            if row["variant"] == name and math.isfinite(row["cost"])
        )
        steps = [1.0, *sorted({ratio for ratio in ratios if 1 < ratio < most}), most]
        found[name] = [(step, sum(ratio <= step for ratio in ratios) / len(problems)) for step in steps]
    return found
