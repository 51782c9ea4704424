"""The heat map: variants by datasets, each cell the difference to the baseline and its verdict."""

from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row

CELL, STEP = 92, 26
SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", "cannot tell": "?", "baseline": ""}


def heat_map(rows: Sequence[Row], baseline: str, limit: float = 2.0, unit: str = "points") -> Chart:
    """Draws a table whose cells are coloured by the difference.

    Args:
        rows: variant, dataset, difference (to the baseline, in `unit`; 0 for the baseline itself), word (of
            `theme.WORDS`), in the order in which variants and datasets are to stand.
        limit: the difference with the strongest colour; larger ones have it too.
    """
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    cells = [
        {
            "variant": row["variant"], "dataset": row["dataset"], "difference": row["difference"],
            "text": "baseline" if row["word"] == "baseline"
            else f"{row['difference']:+.2f} {SIGNS[row['word']]}".replace("-", "−"),
        }
        for row in rows
    ]  # fmt: skip
    scale = alt.Scale(
        domain=[-limit, 0, limit], range=[theme.VERMILION, "#ffffff", theme.BLUE], clamp=True, interpolate="rgb"
    )
    base = alt.Chart(theme.data(cells)).encode(
        x=alt.X("dataset:N", sort=datasets, title=None,
                axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False, labelFontSize=13)),
        y=alt.Y("variant:N", sort=variants, title=None,
                axis=alt.Axis(domain=False, ticks=False, labelPadding=8, labelFontSize=13)),
    )  # fmt: skip
    strong = f"abs(datum.difference) > {0.7 * limit}"
    chart = alt.layer(
        base.mark_rect(stroke=theme.GRID).encode(color=alt.Color("difference:Q", scale=scale, legend=None)),
        base.mark_text(fontSize=12).encode(
            text="text:N", color=alt.condition(strong, alt.value("white"), alt.value(theme.INK))
        ),
    ).properties(width=CELL * len(datasets), height=STEP * len(variants))
    everywhere = [name for name in variants if {row["word"] for row in rows if row["variant"] == name} == {"better"}]
    shown = ", ".join(everywhere[:4]) + (f" and {len(everywhere) - 4} more" if len(everywhere) > 4 else "")
    return theme.finished(
        chart,
        f"Better than {baseline} on all {len(datasets)} datasets: {shown or 'none'}",
        f"Difference to {baseline} in {unit}: ▲ better, ▼ worse, = equivalent, ? cannot tell.",
        max(CELL * len(datasets) + 140, 420),
    )
