"""Draws a drift comparison: the distance of each quantity, both of its distributions, and how often each class
occurs."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from flows.project import file_io

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind people can tell apart.
REFERENCE, INCOMING, DRIFT = "#999999", "#0072B2", "#D55E00"
BINS = 30
MOST_CLASSES = 30  # classes in the figure: those whose share of the predictions has changed most
COLUMNS = 4
UNIT = {"brightness": "0 to 1", "contrast": "0 to 1", "saturation": "0 to 1"}


def draw(result: dict, views: dict, file: Path) -> None:
    """Writes a PNG.

    Args:
        result: the content of drift.json.
        views: see `two_sample.compare`.
    """
    from matplotlib.figure import Figure

    tests = {test["name"]: test for test in result["tests"]}
    shown = [
        (name, values)
        for quantities in views.values()
        for name, values in quantities.items()
        if not name.startswith("probability of ")
    ]
    rows = -(-(len(shown) + 2) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    distances(next(panels), result)
    for name, (incoming, reference) in shown:
        histogram(next(panels), tests[name], incoming, reference)
    predicted(next(panels), result)
    for panel in panels:
        panel.set_axis_off()
    what = "drift" if result["drift"] else "no drift"
    figure.suptitle(
        f"{what}: {result['incoming']:,} incoming images (blue) against {result['reference']:,} held-out images of "
        f"{result['dataset']} (grey)"
    )
    with file_io.whole(file) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def distances(panel: "Axes", result: dict) -> None:
    """Draws the distance of each quantity of the table as a bar, the largest at the top."""
    from flows.drift.ranking import strongest

    tests = [test for test in strongest(result["tests"]) if test["view"] != "labels"]  # labels have another threshold
    tests.sort(key=lambda test: test["statistic"])
    colours = [DRIFT if test["verdict"] == "drift" else INCOMING for test in tests]
    panel.barh([test["name"] for test in tests], [test["statistic"] for test in tests], color=colours)
    panel.axvline(result["effect"], color="black", linestyle=":", linewidth=1)
    panel.set_xlim(0, 1)
    panel.set_title("distance (red: drift; dotted: least that matters)", fontsize=8)
    panel.tick_params(labelsize=7)


def histogram(panel: "Axes", test: dict, incoming: np.ndarray, reference: np.ndarray) -> None:
    both = np.concatenate([incoming, reference])
    # Extreme values are drawn at the edges: otherwise they would press all others into one bar.
    low, high = np.percentile(both, [0.5, 99.5])
    edges = np.histogram_bin_edges(both.clip(low, high), BINS).tolist()
    for values, style in ((reference, {"color": REFERENCE, "alpha": 0.6}), (incoming, {"color": INCOMING})):
        kind: Literal["stepfilled", "step"] = "stepfilled" if values is reference else "step"
        panel.hist(
            values.clip(low, high),
            edges,
            weights=np.full(len(values), 1 / len(values)),
            histtype=kind,
            linewidth=1.4,
            **style,
        )
    unit = f" ({UNIT[test['name']]})" if test["name"] in UNIT else ""
    auc = "" if test["auc"] is None else f", AUC {test['auc']:.2f}"
    colour = DRIFT if test["verdict"] == "drift" else "black"
    panel.set_title(f"{test['name']}{unit}\ndistance {test['statistic']:.2f}{auc}, p {test['p']:.2g}", fontsize=8,
                    color=colour)  # fmt: skip
    panel.set_ylabel("share of images", fontsize=7)
    panel.tick_params(labelsize=7)


def predicted(panel: "Axes", result: dict) -> None:
    """Draws how often each class is predicted, and the estimate, corrected for confusion, of how often it occurs."""
    reference, incoming = (np.array(result["predicted"][side]) for side in ("reference", "incoming"))
    chosen = np.sort(np.argsort(-np.abs(incoming - reference), kind="stable")[:MOST_CLASSES])
    places = np.arange(len(chosen))
    panel.bar(places, reference[chosen], color=REFERENCE, alpha=0.6, width=0.9)
    panel.bar(places, incoming[chosen], color="none", edgecolor=INCOMING, linewidth=1.4, width=0.9)
    names = [result["class_names"][number] for number in chosen]
    estimated = {one["class"]: one["incoming"] for one in result["class_shares"]}
    panel.plot(places, [estimated.get(name, np.nan) for name in names], "_", color="black", markersize=8)
    panel.set_xticks(places, names, rotation=90 if max(map(len, names)) > 2 else 0)
    [test] = [test for test in result["tests"] if test["view"] == "labels"]
    most = f"largest change of a class's share {test['statistic']:.2f}, p {test['p']:.2g}"
    panel.set_title(f"predicted class (dashes: estimated share)\n{most}", fontsize=8,
                    color=DRIFT if test["verdict"] == "drift" else "black")  # fmt: skip
    panel.set_ylabel("share of images", fontsize=7)
    panel.tick_params(labelsize=7)
