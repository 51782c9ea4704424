"""One look for all figures, and how one is written to a file.

Colours are Okabe and Ito's, which colour-blind people can tell apart, and no figure needs them to be read: shapes and
words say the same, in grey too. The font is in vl-convert itself, and an SVG names what looks like it elsewhere.
"""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from flows.project import file_io

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, MUTED, FAINT, GRID = "#222222", "#6b6b6b", "#b8b8b8", "#e7e7e7"
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
# For things that are told apart by a label of their own beside them, too.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, INK, ORANGE, SKY, MUTED)

WORDS = ("better", "equivalent", "cannot tell", "worse", "baseline")  # the verdicts of a study, in the legend's order
WORD_COLOURS = {"better": BLUE, "equivalent": GREEN, "cannot tell": MUTED, "worse": VERMILION, "baseline": INK}
WORD_SHAPES = {
    "better": "triangle-up", "equivalent": "square", "cannot tell": "circle", "worse": "triangle-down",
    "baseline": "diamond",
}  # fmt: skip

WORD_DASHES: dict[str, list[int]] = {
    "better": [1, 0], "equivalent": [7, 3], "cannot tell": [1, 0], "worse": [2, 2], "baseline": [1, 0],
}  # fmt: skip
# What a figure says of them, in grey too.
WORD_KEY = "the verdict: ▲ better, ■ equivalent, ● cannot tell, ▼ worse, black the baseline"

COLUMNS = 3  # panels side by side: with more, one cannot read them on a phone
SIGN_WIDTH = 7.2  # pixels of a sign of the title
LABEL_GAP = 14.0  # pixels from one label to the next

Row = Mapping[str, Any]
Chart = alt.TopLevelMixin


def data(rows: Sequence[Row]) -> alt.InlineData:
    """Rows for a chart: its fields have to say their types, such as `seed:N`."""
    return alt.InlineData(values=[dict(row) for row in rows])


def word_colour(legend: bool = False) -> alt.Color:
    scale = alt.Scale(domain=list(WORDS), range=[WORD_COLOURS[word] for word in WORDS])
    return alt.Color("word:N", scale=scale, legend=alt.Legend(title=None) if legend else None)


def word_shape() -> alt.Shape:
    scale = alt.Scale(domain=list(WORDS), range=[WORD_SHAPES[word] for word in WORDS])
    return alt.Shape("word:N", scale=scale, legend=None)


def word_lines(base: alt.Chart) -> list[alt.Chart]:
    """The lines of a chart that has a `word` a line, with a point for each row: told apart in grey, too."""
    dash = alt.Scale(domain=list(WORDS), range=[WORD_DASHES[word] for word in WORDS])
    lines = base.mark_line(strokeWidth=1.8).encode(
        color=word_colour(), strokeDash=alt.StrokeDash("word:N", scale=dash, legend=None)
    )
    points = base.mark_point(filled=True, size=50, opacity=1, stroke="white", strokeWidth=0.8).encode(
        color=word_colour(), shape=word_shape()
    )
    return [lines, points]


def names_beside(
    rows: Sequence[Row], scale: alt.Scale, ends: tuple[float, float], width: int, height: int
) -> list[alt.Chart]:
    """Names on the right of a chart of a logarithmic vertical axis, with a line to each from the end of its own.

    Args:
        rows: variant, word, and at: where the line ends, on that axis.
        scale: of the axis, and its ends.
    """
    low, high = ends
    pixel = math.log(high / low) / height
    spots = spread([math.log(high / row["at"]) / pixel for row in rows])
    placed = [{**row, "spot": high * math.exp(-pixel * spot)} for row, spot in zip(rows, spots, strict=True)]
    base = alt.Chart(data(placed)).encode(color=word_colour())
    return [
        base.mark_rule(strokeWidth=0.8, opacity=0.6).encode(
            x=alt.value(width + 2), x2=alt.value(width + 21), y=alt.Y("at:Q", scale=scale), y2="spot:Q"
        ),
        base.mark_text(align="left", fontSize=12).encode(
            x=alt.value(width + 24), y=alt.Y("spot:Q", scale=scale), text="variant:N"
        ),
    ]


def finished(chart: Any, title: str, subtitle: str, width: float) -> Chart:
    """A chart with the theme and its title, which says what was found, over a line that says what is drawn.

    Args:
        width: of the whole figure, in pixels: the lines are broken to it.
    """
    signs = int(width / SIGN_WIDTH)
    lines = textwrap.wrap(title, signs)
    small = textwrap.wrap(subtitle, int(signs * 1.2))
    return chart.properties(
        title=alt.TitleParams(text=lines, subtitle=small, anchor="start", frame="bounds"),
        background="white",
        padding=12,
    ).configure(
        font=FONT,
        title=alt.TitleConfig(
            fontSize=15, fontWeight=600, color=INK, subtitleFontSize=12, subtitleColor=MUTED, subtitleLineHeight=16,
            subtitlePadding=6, lineHeight=19, offset=14,
        ),
        axis=alt.AxisConfig(
            labelFontSize=12, titleFontSize=12, labelColor=INK, titleColor=MUTED, titleFontWeight="normal",
            gridColor=GRID, domainColor=FAINT, tickColor=FAINT, labelLimit=220,
        ),
        header=alt.HeaderConfig(labelFontSize=13, labelFontWeight=600, labelColor=INK, labelAnchor="start", title=None),
        legend=alt.LegendConfig(labelFontSize=12, titleFontSize=12, labelColor=INK),
        text=alt.MarkConfig(fontSize=12, color=INK),
        view=alt.ViewConfig(stroke=None),
        concat=alt.CompositionConfig(spacing=24),
        facet=alt.CompositionConfig(spacing=18),
    )  # fmt: skip


def spread(places: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Places for labels, at least `gap` from each other and as near to the given ones as that allows, in their order.

    Neighbours that are too near become a block round the mean of their places, as in isotonic regression by pooling
    adjacent violators (Ayer and others, 1955).
    """
    order = sorted(range(len(places)), key=lambda number: places[number])
    blocks: list[list[float]] = []  # of each: the sum of its first label's wishes, their number
    for rank, number in enumerate(order):
        blocks.append([places[number] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    shifts = [total / count for total, count in blocks for _ in range(int(count))]
    found = [0.0] * len(places)
    for rank, (number, shift) in enumerate(zip(order, shifts)):
        found[number] = shift + rank * gap
    return found


def specification(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite, with its data."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict()


def start() -> None:
    """Draws nothing, which takes the library as long as several figures when it is the first."""
    vl_convert.vegalite_to_svg({"data": {"values": []}, "mark": "point"})


def svg(chart: Chart) -> str:
    return vl_convert.vegalite_to_svg(specification(chart))


def save(chart: Chart, path: Path) -> None:
    """Writes a chart atomically: to an .svg, a .png of twice the size, or .json, which is Vega-Lite.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix == ".svg":
        content = svg(chart).encode()
    elif path.suffix == ".png":
        content = vl_convert.vegalite_to_png(specification(chart), scale=2)
    elif path.suffix == ".json":
        content = (json.dumps(specification(chart), indent=2, ensure_ascii=False) + "\n").encode()
    else:
        raise ValueError(f"{path.name}: a figure is written to .svg, .png or .json")
    with file_io.whole(path) as temporary:
        temporary.write_bytes(content)
