"""The race of optimizers as a figure: contours, each path with its name on it, and the order of arrival beside."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import contourpy
import numpy as np

from flows.figures import theme
from flows.figures.theme import Chart, Row

WIDTH, HEIGHT = 440, 340
LEVELS = 14
LOW, HIGH = "#b9cde1", "#f8f9fb"  # the colours of the valleys and of the heights
TRAILS = "trails"  # the paths' name in the SVG
STAR = "M0,-1L0.24,-0.32L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31L-0.24,-0.32Z"
AWAY = 3.0  # sizes of the drawn part: a path is drawn no farther outside than this
ROOM = 80.0, 16.0  # pixels of a name: across, up
FROM_EDGE = 12.0  # pixels
# Of the marks on a path, in pixels: from one to the next, how far each path's first one is behind that of the path
# before, and how many at most: a path that swings round a minimum is longer than it looks.
APART, BEHIND, MOST_MARKS = 64.0, 8.0, 8
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right",
)  # fmt: skip


def race(
    paths: Sequence[Row],
    heights: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    minima: Sequence[tuple[float, float]],
    optimizers: Sequence[str],
    title: str,
    subtitle: str,
    marked: bool = True,
) -> Chart:
    """Draws a race. Shapes tell the optimizers apart in grey, too.

    Args:
        paths: an optimizer each, in the order of arrival: optimizer, places (x and y of each step), text (for the list
            beside).
        heights: above the minimum, of y × x.
        minima: places to mark.
        optimizers: their names, in the order of colours and shapes.
        marked: whether the paths have the shapes on them; not where they are still to be drawn, in an animation.
    """
    place = [
        kind(f"{name}:Q", title=None, axis=alt.Axis(grid=False, tickCount=5, domain=False),
             scale=alt.Scale(domain=[float(ends[0]), float(ends[-1])], nice=False, zero=False))
        for name, kind, ends in (("x", alt.X, x), ("y", alt.Y, y))
    ]  # fmt: skip
    order = [path["optimizer"] for path in paths]
    colour = alt.Color("optimizer:N", legend=None, scale=alt.Scale(domain=list(optimizers), range=list(theme.COLOURS)))
    shape = alt.Shape("optimizer:N", legend=None, scale=alt.Scale(domain=list(optimizers), range=list(SHAPES)))
    fill = alt.Fill("level:Q", legend=None, scale=alt.Scale(domain=[0, LEVELS - 1], range=[LOW, HIGH]))
    trails = [
        {"optimizer": path["optimizer"], "step": step, "x": across, "y": up}
        for path in paths
        for step, (across, up) in enumerate(within(path["places"], x, y).tolist())
    ]
    first = paths[0]["places"][0]
    names = [
        {"optimizer": name, "x": across, "y": up}
        for name, (across, up) in zip(order, name_places(paths, [first, *minima], x, y))
    ]
    listed = [
        {"optimizer": path["optimizer"], "text": path["text"], "row": 12 + 22 * row} for row, path in enumerate(paths)
    ]
    marks = [
        {"optimizer": path["optimizer"], "x": across, "y": up}
        for number, path in enumerate(paths if marked else [])
        for across, up in marked_places(path, BEHIND * (1 + number), x, y)
    ]
    row = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[0, HEIGHT], range=[0, HEIGHT]))
    beside = alt.Chart(theme.data(listed)).encode(y=row)
    written = alt.Chart(theme.data(names)).encode(*place, text="optimizer:N")
    layers = [
        alt.Chart(theme.data(contours(heights, x, y)))
        .mark_line(filled=True, stroke="white", strokeWidth=0.8, clip=True)
        .encode(*place, order="order:Q", detail="ring:N", fill=fill),
        alt.Chart(theme.data(trails), name=TRAILS)
        .mark_line(strokeWidth=2.2, clip=True, strokeJoin="round", strokeCap="round")
        .encode(*place, order="step:Q", color=colour),
        alt.Chart(theme.data(marks))
        .mark_point(filled=True, size=55, opacity=1, stroke="white", strokeWidth=1, clip=True)
        .encode(*place, color=colour, shape=shape),
        alt.Chart(theme.data([{"x": first[0], "y": first[1]}]))
        .mark_point(filled=True, size=90, color="white", stroke=theme.INK, strokeWidth=2, opacity=1)
        .encode(*place),
        alt.Chart(theme.data([{"x": across, "y": up} for across, up in minima]))
        .mark_point(shape=STAR, filled=True, size=170, color=theme.INK, opacity=1, stroke="white", clip=True)
        .encode(*place),
        written.mark_text(fontSize=12, fontWeight=700, stroke="white", strokeWidth=4, strokeJoin="round"),
        written.mark_text(fontSize=12, fontWeight=700).encode(color=colour),
    ]  # fmt: skip
    order_of_arrival = alt.layer(
        beside.mark_point(filled=True, size=70, opacity=1).encode(x=alt.value(WIDTH + 18), color=colour, shape=shape),
        beside.mark_text(align="left", fontSize=13).encode(x=alt.value(WIDTH + 30), text="text:N"),
    )
    chart = alt.layer(alt.layer(*layers), order_of_arrival).resolve_scale(y="independent")
    return theme.finished(chart.properties(width=WIDTH, height=HEIGHT), title, subtitle, WIDTH + 220)


def contours(heights: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[dict]:
    """The parts below each of `LEVELS` heights, the highest first, each painted over the one before.

    A ring is drawn as one line, holes and all: from the outline to each hole and back. The holes run the other way
    round, so that they stay empty.
    """
    # By shares of the area: even steps of height would show the walls alone, and nothing of a valley's floor.
    levels = np.quantile(heights, np.linspace(0, 1, LEVELS + 1)[1:] ** 1.3)
    generator = contourpy.contour_generator(x, y, heights, fill_type=contourpy.FillType.OuterOffset)
    rows = []
    for level in range(LEVELS - 1, -1, -1):
        polygons: Any = generator.filled(-1.0, max(levels[level], 1e-12))
        for number, (polygon, ends) in enumerate(zip(polygons[0], polygons[1])):
            ring = []
            for begin, end in itertools.pairwise(ends):
                ring += [*polygon[begin:end], polygon[0]]
            rows += [
                {
                    "level": level, "ring": f"{LEVELS - level:02d}-{number}", "order": order,
                    "x": round(float(across), 4), "y": round(float(up), 4),
                }
                for order, (across, up) in enumerate(ring)
            ]  # fmt: skip
    return rows


def within(places: Sequence[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The places, of steps × 2; those far outside of the drawn part at its border."""
    low, high = np.array([x[0], y[0]]), np.array([x[-1], y[-1]])
    return np.clip(np.array(places, float), low - AWAY * (high - low), high + AWAY * (high - low))


def marked_places(path: Row, first: float, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Places along a path at even distances in pixels, the first one `first` and a distance after its start."""
    low, size = np.array([x[0], y[0]]), np.array([x[-1] - x[0], y[-1] - y[0]])
    line = dense((within(path["places"], x, y) - low) / size * np.array([WIDTH, HEIGHT]))
    gone = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    wanted = np.arange(first + APART / 2, gone[-1], APART)[:MOST_MARKS]
    found = line[np.searchsorted(gone, wanted)] / np.array([WIDTH, HEIGHT]) * size + low
    return [(float(across), float(up)) for across, up in found]


def name_places(
    paths: Sequence[Row], bare: Sequence[tuple[float, float]], x: np.ndarray, y: np.ndarray
) -> list[tuple[float, float]]:
    """Where each path's name is written: on its path, as far from the other paths as there is a place, but on no other
    name and no place of `bare`, which is marked. Where a path is too short for that, as near to it as there is room."""
    low, size = np.array([x[0], y[0]]), np.array([x[-1] - x[0], y[-1] - y[0]])
    pixels = np.array([WIDTH, HEIGHT])
    drawn = [dense((within(path["places"], x, y) - low) / size * pixels) for path in paths]
    found = [(np.array(place) - low) / size * pixels for place in bare]
    room = np.array(ROOM)
    anywhere = np.stack(np.meshgrid(*(np.arange(half, end - half, 8.0) for half, end in zip(room / 2, pixels))), 2)
    anywhere = anywhere.reshape(-1, 2)
    for number, own in enumerate(drawn):
        others = np.concatenate([*(line for other, line in enumerate(drawn) if other != number), np.full((1, 2), -1e3)])
        inside = ((own > room / 2) & (own < pixels - room / 2)).all(1)
        # Distances in sizes of a name. A name on another one is worse than a name on another path.
        free = np.abs((own[:, None] - others[None]) / room).max(2).min(1)
        free = free - 10 * np.maximum(0.0, 1 - apart(own, found))
        best = own[np.argmax(np.where(inside, free, free - 1e3))].clip(FROM_EDGE, pixels - FROM_EDGE)
        if apart(best[None], found) < 1 and len(places := anywhere[apart(anywhere, found) >= 1]):
            near = own[:: len(own) // 200 + 1]
            best = places[np.argmin(np.square(places[:, None] - near[None]).sum(2).min(1))]
        found.append(best)
    return [tuple((place / pixels * size + low).tolist()) for place in found[len(bare) :]]


def apart(places: np.ndarray, taken: Sequence[np.ndarray]) -> np.ndarray:
    """How far each place of n × 2 is from the nearest that is taken, in sizes of a name: below 1 they overlap."""
    return np.abs((places[:, None] - np.stack(taken)[None]) / np.array(ROOM)).max(2).min(1)


def dense(line: np.ndarray, most: float = 6.0) -> np.ndarray:
    """Points along a line, of n × 2, at most `most` pixels apart."""
    pieces = [line[:1]]
    for start, end in itertools.pairwise(line):
        parts = max(1, math.ceil(float(np.abs(end - start).max()) / most))
        pieces.append(start + (end - start) * (np.arange(1, parts + 1) / parts)[:, None])
    return np.concatenate(pieces)
