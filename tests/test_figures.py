"""Figures: rendered without a network, readable with many variants, and they say what the findings say."""

import json
import math
import statistics
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from flows.figures import animation, costs, forest, heat_map, learning_curves, race, sensitivity, theme
from flows.findings import across, pictures, verdicts
from flows.untrusted.escaping import in_markdown

VARIANTS = ["sgd", *(f"optimizer_{number}" for number in range(19))]
RATES = [0.001, 0.01, 0.1, 1.0, 10.0]


def study(variants=VARIANTS) -> tuple[list[dict], list[dict]]:
    """Rows and curves; the last variant diverges at its largest rates, the one before misses the target."""
    generator = np.random.default_rng(0)
    rows, curves = [], []
    for number, variant in enumerate(variants):
        for setting, value, seed in [
            *(("tuning", rate, seed) for rate in RATES for seed in (7, 8)),
            *((setting, 0.1, seed) for setting in ("default", "tuned") for seed in range(3)),
        ]:
            diverged = variant == variants[-1] and value > 0.1
            accuracy = 0.97 - 0.01 * number - 0.05 * abs(math.log10(value / 0.1)) + generator.normal(0, 0.005)
            accuracy = math.nan if diverged else min(1.0, accuracy)
            missed = diverged or variant == variants[-2]
            rows.append(
                {
                    "variant": variant, "setting": setting, "value": value, "seed": seed, "diverged": diverged,
                    "training_accuracy": accuracy, "validation_accuracy": accuracy, "validation_nll": 1 - accuracy,
                    "held_out_accuracy": accuracy, "held_out_nll": 1 - accuracy, "seconds": 1.0,
                    "steps_to_target": math.inf if missed else 100.0 + number,
                }
            )  # fmt: skip
            if setting == "tuned":
                curves += [
                    {"variant": variant, "setting": setting, "value": value, "seed": seed, "epoch": epoch,
                     "training_loss": 1 / epoch, "validation_nll": 1 / epoch + 0.1, "validation_accuracy": accuracy}
                    for epoch in range(1, 5)
                ]  # fmt: skip
    return rows, curves


@pytest.fixture(scope="module")
def charts() -> dict:
    rows, curves = study()
    norms = [
        {
            "variant": variant,
            "seed": seed,
            "layer": layer,
            "norm": 0.0 if number == 3 else 10.0 ** -(number * (6 - layer)),
        }
        for number, variant in enumerate(VARIANTS)
        for seed in range(3)
        for layer in range(1, 7)
    ]
    return pictures.charts(verdicts.judge(rows, "sgd", 0.1), rows, curves, "95% validation accuracy", norms)


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Each text of an SVG and where it is, x and y in pixels; of rotated ones nothing."""
    found = []

    def walk(node: ElementTree.Element, x: float, y: float) -> None:
        moved = node.get("transform", "")
        if "rotate" in moved:
            return
        if moved.startswith("translate("):
            dx, dy = moved[len("translate(") :].rstrip(")").split(",")
            x, y = x + float(dx), y + float(dy)
        if node.tag.endswith("text"):
            found.append(("".join(node.itertext()), x, y))
        for child in node:
            walk(child, x, y)

    walk(ElementTree.fromstring(svg), 0.0, 0.0)
    return found


def test_a_study_has_its_figures(charts):
    assert set(charts) == {"verdicts", "learning_curves", "sensitivity", "budget", "steps_to_target", "gradients"}


def test_all_are_written_with_all_that_they_need(charts, tmp_path):
    for name, chart in charts.items():
        for suffix, start in (("svg", b"<svg"), ("png", b"\x89PNG"), ("json", b"{")):
            file = tmp_path / f"{name}.{suffix}"
            theme.save(chart, file)
            assert file.read_bytes().startswith(start)
        # Nothing that would have to be fetched.
        specification = json.loads((tmp_path / f"{name}.json").read_text())
        assert "vega-lite" in specification["$schema"]
        assert '"url"' not in json.dumps(specification)
        assert "href=" not in (tmp_path / f"{name}.svg").read_text()
    with pytest.raises(ValueError, match=r"\.svg, \.png or \.json"):
        theme.save(charts["verdicts"], tmp_path / "figure.pdf")


def test_the_words_of_the_findings_are_those_of_the_figure(charts):
    rows, _ = study()
    findings = verdicts.judge(rows, "sgd", 0.1)
    shown = texts(theme.svg(charts["verdicts"]))
    row_of = {text: y for text, _, y in shown}
    for one in findings.findings:
        beside = {text for text, _, y in shown if abs(y - row_of[findings.label(one)]) < 4}
        assert {findings.text(one.score.mean), one.word} <= beside


@pytest.mark.parametrize("name", ["verdicts", "budget", "steps_to_target", "gradients"])
def test_names_of_twenty_variants_do_not_overlap(charts, name):
    places = sorted((y, x) for text, x, y in texts(theme.svg(charts[name])) if text.startswith("optimizer_"))
    assert len(places) >= 19
    assert all(below - above > 11 for (above, _), (below, _) in pairwise(places))


def test_labels_are_spread_no_more_than_they_need():
    assert theme.spread([0, 100, 50], 10) == [0, 100, 50]
    assert theme.spread([50, 50, 50], 10) == [40, 50, 60]
    generator = np.random.default_rng(0)
    wished = generator.uniform(0, 300, 25).tolist()
    found = theme.spread(wished, 14)
    assert sorted(range(25), key=lambda n: found[n]) == sorted(range(25), key=lambda n: wished[n])
    assert all(after - before >= 14 - 1e-9 for before, after in pairwise(sorted(found)))


def rows_of_forest(**means: float) -> list[dict]:
    return [
        {
            "variant": name, "label": name, "word": "worse", "score": "1%", "mean": mean, "low": mean - 1,
            "high": mean + 1, "seeds": [mean],
        }
        for name, mean in means.items()
    ]  # fmt: skip


def test_one_that_fails_does_not_press_the_others_together():
    low, high = forest.limits(rows_of_forest(a=-1, b=1, c=0.5, failed=-85), margin=0.1)
    assert -3 < low < -2 < 2 < high < 3
    shown = [text for text, *_ in texts(theme.svg(forest.forest(rows_of_forest(a=-1, b=1, c=0, failed=-85), "a", 0.1)))]
    assert {"◀", "−85.00"} <= set(shown)


def test_diverged_trainings_are_drawn_at_the_top(charts):
    spec = json.dumps(theme.specification(charts["sensitivity"]))
    assert '"failed": 2' in spec
    points = [point for data in datasets(charts["sensitivity"]) for point in data if "failed" in point]
    last = [point for point in points if point["variant"] == VARIANTS[-1]]
    assert [point["failed"] for point in last] == [0, 0, 0, 2, 2]
    assert all(point["median"] == sensitivity.TOP for point in last if point["failed"])


def datasets(chart) -> list[list[dict]]:
    """All rows in a chart's specification."""
    found = []

    def walk(node) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("data"), dict) and "values" in node["data"]:
                found.append(node["data"]["values"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    specification = theme.specification(chart)
    walk(specification)
    return [*found, *specification.get("datasets", {}).values()]


def test_nothing_but_numbers_that_json_has(charts):
    for chart in charts.values():
        json.dumps(theme.specification(chart), allow_nan=False)  # raises


@pytest.mark.parametrize("name", ["budget", "gradients"])
def test_verdicts_are_told_apart_without_colours(charts, name):
    """Lines of those that are worse are dotted, and each verdict has a shape of its own."""
    layers = theme.specification(charts[name])["layer"]
    dash, shape = (
        next(layer["encoding"][channel] for layer in layers if channel in layer["encoding"])
        for channel in ("strokeDash", "shape")
    )
    assert dash["field"] == shape["field"] == "word"
    dashes = dict(zip(dash["scale"]["domain"], dash["scale"]["range"], strict=True))
    assert dashes["worse"] != dashes["better"]
    assert len(set(shape["scale"]["range"])) == len(theme.WORDS)


def test_titles_say_what_was_found(charts):
    titles = {name: " ".join(theme.specification(chart)["title"]["text"]) for name, chart in charts.items()}
    assert "better than sgd" in titles["verdicts"]
    assert titles["steps_to_target"].startswith(
        "sgd is first at 95% validation accuracy, after 100 steps; 1 of 20 does"
    )
    assert titles["budget"].startswith("sgd is best with 1 trial")


def test_budgets_are_compared_where_all_have_spent_them():
    rows = [
        {"variant": name, "trials": trials, "error": error, "word": "cannot tell"}
        for name, errors in (("a", {1: 5.0, 7: 3.0}), ("b", {1: 4.0, 7: 3.5, 9: 1.0}))
        for trials, error in errors.items()
    ]
    assert theme.specification(costs.by_budget(rows))["title"]["text"] == ["b is best with 1 trial, a with 7 trials"]


def test_a_curve_that_ended_early_is_not_the_lowest_at_the_end():
    rows = [
        {"variant": name, "seed": 0, "epoch": epoch, "validation_nll": loss}
        for name, losses in (("a", [1.0, 0.5]), ("b", [0.1, math.nan]))
        for epoch, loss in enumerate(losses, 1)
    ]
    title = theme.specification(learning_curves.learning_curves(rows, "a"))["title"]["text"]
    assert title == ["a ends with the lowest validation nll: 0.5"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["better"], "a is better than sgd"),
        (["cannot tell"], "a cannot be told from sgd"),
        (["worse", "cannot tell"], "No variant is better than sgd: 1 worse, 1 cannot be told from it"),
        (["better", "equivalent"], "1 of 2 is better than sgd (a), 1 equivalent"),
        (["better"] * 4, "4 of 4 are better than sgd"),
    ],
)
def test_the_title_of_the_verdicts_is_a_sentence_for_any_number_of_variants(words, said):
    rows = [{"variant": "sgd", "word": "baseline"}] + [
        {"variant": name, "word": word} for name, word in zip("abcd", words)
    ]
    assert forest.headline(rows, "sgd") == said


def test_a_curve_of_a_training_that_diverged_ends_there():
    rows = [
        {"variant": "a", "seed": seed, "epoch": epoch, "validation_nll": math.nan if epoch > 2 else 1.0 + seed}
        for seed in range(2)
        for epoch in range(1, 5)
    ]
    points = learning_curves.summarized(rows, "validation_nll", None)
    assert [(point["epoch"], point["low"], point["median"], point["high"]) for point in points] == [
        (1, 1.0, 1.5, 2.0),
        (2, 1.0, 1.5, 2.0),
    ]


def test_the_performance_profile_is_that_of_the_article():
    """The share of problems whose cost is at most so many times the least."""
    costs_of = {"a": [10, 10, math.inf], "b": [20, 5, 7]}
    rows = [
        {"variant": name, "problem": problem, "cost": cost}
        for name, found in costs_of.items()
        for problem, cost in enumerate(found)
    ]
    found = costs.profile(rows, 16)
    assert found["a"] == [(1.0, pytest.approx(1 / 3)), (2.0, pytest.approx(2 / 3)), (16, pytest.approx(2 / 3))]
    assert found["b"] == [(1.0, pytest.approx(2 / 3)), (2.0, 1.0), (16, 1.0)]
    assert all(share == 0 for _, share in costs.profile([{"variant": "a", "problem": 0, "cost": math.inf}], 4)["a"])


def test_two_datasets_are_compared_by_heat_map_profile_and_table():
    """Of the variants that both have; the best on average first."""
    found = {"digits": VARIANTS[:5], "mnist": VARIANTS[:4]}
    judged = {name: verdicts.judge(study(variants)[0], "sgd", 0.1) for name, variants in found.items()}
    everywhere = across.Across("sgd", {name: across.outcomes(one) for name, one in judged.items()})
    drawn = pictures.across_datasets(everywhere)
    assert set(drawn) == {"heat_map", "performance_profile"}
    shown = [text for text, *_ in texts(theme.svg(drawn["heat_map"]))]
    assert {"digits", "mnist", *VARIANTS[:4]} <= set(shown)
    assert VARIANTS[4] not in shown
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in everywhere.markdown().splitlines()}
    for one in judged["mnist"].findings[1:]:
        points = f"{100 * one.comparison.interval.mean:+.2f}"
        assert f"{points} {heat_map.SIGNS[one.word]}".replace("-", "−") in shown
        assert lines[in_markdown(one.variant)].endswith(f" | {points}, {one.word} |")
    means = [statistics.fmean(one.points for one in row) for row in everywhere.rows.values()]
    assert means == sorted(means, reverse=True)
    assert len(everywhere.rows) == 4


def test_contours_leave_out_the_tops():
    """A mountain in a plain: the lower parts have a hole, so that their line goes round it, and back."""
    x = y = np.linspace(-1, 1, 41)
    across, up = np.meshgrid(x, y)
    rows = race.contours(np.exp(-8 * (across**2 + up**2)), x, y)
    corners = [(row["x"], row["y"]) for row in rows if row["ring"].startswith("07-")]
    area = sum(a * d - b * c for (a, b), (c, d) in pairwise([*corners, corners[0]])) / 2
    assert 0.3 < abs(area) < 3.5  # of 4: the hole's area is taken off


LINES = """<svg xmlns="http://www.w3.org/2000/svg"><g class="mark-line role-mark trails_0_marks">
<path d="M0,0L3,4L3,4H10" stroke="#000"/></g><g class="mark-line trails_0_marks"><path d="M5,5V9" stroke="#fff"/></g>
<g class="mark-line other_marks"><path d="M1,1L2,2"/></g></svg>"""


@pytest.mark.parametrize("steps", [1, 2, 400])
def test_no_name_in_a_race_is_on_another_one(steps):
    """Also where paths are short, at one place, or where they stand still."""
    x, y = np.linspace(-8, 2, 11), np.linspace(-6, 4, 11)
    generator = np.random.default_rng(0)
    start = (-7.5, -1.5)
    walks = [np.cumsum(generator.normal(0, 0.05 * number, (steps, 2)), axis=0) for number in range(8)]
    paths = [{"places": [start, *map(tuple, walk + start)]} for walk in walks]
    places = race.name_places(paths, [start, (0.0, 0.0)], x, y)
    pixels = [((across + 8) / 10 * race.WIDTH, (up + 6) / 10 * race.HEIGHT) for across, up in [start, *places]]
    assert all(0 < across < race.WIDTH and 0 < up < race.HEIGHT for across, up in pixels)
    for first, second in combinations(pixels, 2):
        assert any(abs(a - b) >= room - 0.01 for a, b, room in zip(first, second, race.ROOM))


def test_an_animation_draws_each_line_step_by_step():
    root = ElementTree.fromstring(animation.animated(LINES, "trails"))
    space = {"s": animation.SPACE}
    first, second, other = root.findall(".//s:path", space)
    assert first.get("stroke-dasharray") == "12.0"
    [drawn] = first.findall("s:animate", space)
    assert drawn.get("values") == "12.0;7.0;7.0;0.0;0.0"
    times = [float(time) for time in drawn.get("keyTimes").split(";")]
    assert times[0] == 0
    assert times[-1] == 1
    assert times == sorted(times)
    [dot] = second.findall("../s:circle", space) or root.findall(".//s:g[2]/s:circle", space)
    assert [move.get("values") for move in dot] == ["5.0;5.0;5.0", "5.0;9.0;9.0"]
    assert list(other) == []
    with pytest.raises(ValueError, match="no lines named nothing"):
        animation.animated(LINES, "nothing")
