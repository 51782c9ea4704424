"""The forest plot: each variant's difference to the baseline, every seed a dot beside the interval that decides."""

import math
import statistics
from collections.abc import Sequence

import altair as alt

from flows.figures import theme
from flows.figures.theme import Chart, Row

WIDTH, STEP = 330, 24
FARTHEST = 4.0  # times the median reach of an interval: what lies beyond is cut off


def forest(rows: Sequence[Row], baseline: str, margin: float, unit: str = "points") -> Chart:
    """Draws the differences, in the given order from the top.

    Args:
        rows: a variant each: variant, label, word, score (text), mean, low, high (difference to the baseline in `unit`;
            low and high infinite or None where there is no interval; all three None for the baseline), seeds (the
            difference of each seed).
        margin: of equivalence, in `unit`.
    """
    low, high = limits([row for row in rows if row["mean"] is not None], margin)
    marks, dots, ends, texts = [], [], [], []
    for row in rows:
        same = {"label": row["label"], "word": row["word"]}
        mean = 0.0 if row["mean"] is None else row["mean"]
        difference = "" if row["mean"] is None else f"{mean:+.2f}".replace("-", "−")
        texts.append({**same, "score": row["score"], "difference": difference})
        if not low <= mean <= high:
            ends.append({**same, "mean": high if mean > 0 else low, "sign": "▶" if mean > 0 else "◀"})
            continue
        ends_at = (row["low"], row["high"]) if has_interval(row) else (mean, mean)
        marks.append({**same, "mean": mean, "low": max(low, ends_at[0]), "high": min(high, ends_at[1])})
        dots += [{**same, "mean": value} for value in row["seeds"] if low <= value <= high]
    y = alt.Y(
        "label:N", sort=[row["label"] for row in rows], title=None,
        axis=alt.Axis(domain=False, ticks=False, labelPadding=8, labelFontSize=13),
    )  # fmt: skip
    x = alt.X(
        "mean:Q", title=f"difference to {baseline} ({unit})", scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(tickCount=6, format="+~f", domain=False),
    )  # fmt: skip
    colour, written = theme.word_colour(), alt.Chart(theme.data(texts)).encode(y=y)
    base = alt.Chart(theme.data(marks)).encode(y=y)
    band = alt.Chart(theme.data([{"low": max(low, -margin), "high": min(high, margin)}]))
    layers = [
        band.mark_rect(color=theme.GRID).encode(x="low:Q", x2="high:Q"),
        alt.Chart(theme.data([{"zero": 0}])).mark_rule(color=theme.MUTED).encode(x="zero:Q"),
        alt.Chart(theme.data(dots)).mark_circle(size=20, opacity=0.55, yOffset=8).encode(x=x, y=y, color=colour),
        base.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q", color=colour),
        base.mark_point(filled=True, size=80, opacity=1, stroke="white", strokeWidth=1).encode(
            x=x, color=colour, shape=theme.word_shape()
        ),
        alt.Chart(theme.data(ends)).mark_text(fontSize=13).encode(x=x, y=y, text="sign:N", color=colour),
        written.mark_text(align="right", fontSize=13).encode(x=alt.value(WIDTH + 66), text="score:N"),
        written.mark_text(align="right", fontSize=13).encode(x=alt.value(WIDTH + 122), text="difference:N"),
        written.mark_text(align="left", fontSize=13).encode(x=alt.value(WIDTH + 134), text="word:N", color=colour),
    ]
    return theme.finished(
        alt.layer(*layers).properties(width=WIDTH, height=STEP * len(rows)),
        headline(rows, baseline),
        f"Bars: the intervals that decide, at Holm's level; dots: the seeds, each paired with {baseline}'s. "
        f"Grey: ±{margin:g}, too small to matter. On the right: held-out score, difference, verdict.",
        WIDTH + 330,
    )


def has_interval(row: Row) -> bool:
    return row["low"] is not None and math.isfinite(row["low"])


def limits(rows: Sequence[Row], margin: float) -> tuple[float, float]:
    """The ends of the axis, with 0 between: a variant that fails must not press all others into one point."""
    ends = [(row["low"], row["high"]) if has_interval(row) else (min(row["seeds"]), max(row["seeds"])) for row in rows]
    sizes = [max(abs(low), abs(high)) for low, high in ends]
    farthest = FARTHEST * statistics.median(sizes) if sizes else 0.0
    shown = [end for end, size in zip(ends, sizes) if size <= farthest]
    low, high = min([-margin, *(low for low, _ in shown)]), max([margin, *(high for _, high in shown)])
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


# What is said of variants that are not better, and of a single one.
OTHERS = (
    ("worse", "worse", "is worse than"),
    ("equivalent", "equivalent", "is equivalent to"),
    ("cannot tell", "cannot be told from it", "cannot be told from"),
)


def headline(rows: Sequence[Row], baseline: str) -> str:
    """The verdicts, counted: "2 of 9 are better than sgd (adam, nadam), 3 worse, 4 cannot be told from it". Of a single
    one its own: "adam cannot be told from sgd"."""
    by_word = {word: [row["variant"] for row in rows if row["word"] == word] for word in theme.WORDS}
    others, better = len(rows) - len(by_word["baseline"]), by_word["better"]
    if others == 1:
        alone = {"better": "is better than"} | {word: text for word, _, text in OTHERS}
        return next(f"{by_word[word][0]} {text} {baseline}" for word, text in alone.items() if by_word[word])
    names = f" ({', '.join(better)})" if len(better) <= 3 else ""
    said = f"{len(better)} of {others} {'is' if len(better) == 1 else 'are'} better than {baseline}{names}"
    rest = [f"{len(by_word[word])} {text}" for word, text, _ in OTHERS if by_word[word]]
    return ", ".join([said, *rest]) if better else f"No variant is better than {baseline}: {', '.join(rest)}"
