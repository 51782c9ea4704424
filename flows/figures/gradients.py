"""The norm of the gradient that reaches each layer of a network."""

import math
import statistics
from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row

WIDTH, HEIGHT, LABELS = 330, 300, 120  # pixels; LABELS beside the chart
LEAST = 1e-12  # a norm of 0 is drawn here


def gradient_norms(rows: Sequence[Row]) -> Chart:
    """Draws the median norm by layer, a line a variant with its name beside the first layer, where it matters most.

    Args:
        rows: variant, seed, layer (from 1, the first), norm (0 or above) and word (of `theme.WORDS`).
    """
    found: dict[str, dict[int, list[float]]] = {}
    words = {row["variant"]: row["word"] for row in rows}
    for row in rows:
        found.setdefault(row["variant"], {}).setdefault(row["layer"], []).append(max(row["norm"], LEAST))
    medians = {
        variant: {layer: statistics.median(norms) for layer, norms in sorted(layers.items())}
        for variant, layers in found.items()
    }
    points = [
        {"variant": variant, "word": words[variant], "layer": layer, "norm": norm}
        for variant, layers in medians.items()
        for layer, norm in layers.items()
    ]
    low, high = min(point["norm"] for point in points) / 2, max(point["norm"] for point in points) * 2
    height = max(HEIGHT, int(theme.LABEL_GAP * len(medians)))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    base = alt.Chart(theme.data(points)).encode(
        # From the classes on the left to the images on the right, where the names are: the way the gradient goes.
        x=alt.X(
            "layer:O", sort="descending", title="layer, as the gradient passes them: the last one first",
            axis=alt.Axis(labelAngle=0, grid=False),
        ),
        y=alt.Y("norm:Q", title="norm of the gradient", scale=scale, axis=alt.Axis(tickCount=6, format=".0e")),
        color=theme.word_colour(), detail="variant:N",
    )  # fmt: skip
    pixel = math.log(high / low) / height
    starts = {variant: next(iter(layers.values())) for variant, layers in medians.items()}
    spots = theme.spread([math.log(high / norm) / pixel for norm in starts.values()])
    labels = alt.Chart(
        theme.data(
            [
                {"variant": variant, "word": words[variant], "spot": high * math.exp(-pixel * spot), "at": norm}
                for (variant, norm), spot in zip(starts.items(), spots)
            ]
        )
    ).encode(color=theme.word_colour())
    beside = [
        labels.mark_rule(strokeWidth=0.8, opacity=0.6).encode(
            x=alt.value(WIDTH + 2), x2=alt.value(WIDTH + 21), y=alt.Y("at:Q", scale=scale), y2="spot:Q"
        ),
        labels.mark_text(align="left", fontSize=12).encode(
            x=alt.value(WIDTH + 24), y=alt.Y("spot:Q", scale=scale), text="variant:N"
        ),
    ]
    chart = alt.layer(base.mark_line(strokeWidth=1.8), base.mark_point(filled=True, size=30, opacity=1), *beside)
    ratios = {variant: starts[variant] / list(layers.values())[-1] for variant, layers in medians.items()}
    worst = min(ratios, key=lambda variant: ratios[variant])
    return theme.finished(
        chart.properties(width=WIDTH, height=height),
        f"{worst}: {ratios[worst]:.0e} of the last layer's gradient reaches the first",
        "Norm of the loss's gradient by each layer's weights before the first step, median over seeds. Colour: the "
        "verdict.",
        WIDTH + LABELS + 60,
    )
