"""The norm of the gradient that reaches each layer of a network."""

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
        detail="variant:N",
    )  # fmt: skip
    starts = {variant: next(iter(layers.values())) for variant, layers in medians.items()}
    named = [{"variant": variant, "word": words[variant], "at": norm} for variant, norm in starts.items()]
    beside = theme.names_beside(named, scale, (low, high), WIDTH, height)
    chart = alt.layer(*theme.word_lines(base), *beside)
    ratios = {variant: starts[variant] / list(layers.values())[-1] for variant, layers in medians.items()}
    worst = min(ratios, key=lambda variant: ratios[variant])
    return theme.finished(
        chart.properties(width=WIDTH, height=height),
        f"{worst}: {ratios[worst]:.0e} of the last layer's gradient reaches the first",
        "Norm of the loss's gradient by each layer's weights before the first step, median over seeds. Shapes "
        f"say {theme.WORD_KEY}.",
        WIDTH + LABELS + 60,
    )
