"""Writes what a study found: tables, words and figures, all from one object."""

import contextlib
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.findings import across, pictures, verdicts
from flows.findings.across import Outcome
from flows.findings.findings import Findings
from flows.project import file_io, paths
from flows.studies.specification import Study
from flows.untrusted.escaping import in_csv, in_markdown

# Keys of a row that are not in trainings.csv: two have files of their own, of the third come the seconds.
LEFT_OUT = ("curve", "gradient_norms", "epoch_seconds")
DEEP = 5  # layers with weights
CURVE = ("variant", "setting", "value", "seed")  # what a row of curves.csv has of its training's


def load() -> None:
    """Loads what draws figures."""
    with contextlib.suppress(Exception):  # it fails again when a figure is drawn
        from flows.figures import theme

        theme.start()


def findings(study: Study, rows: Sequence[dict], classes: int) -> Findings:
    """What the rows say, see `verdicts.judge`.

    Args:
        classes: of the dataset: a training that diverged counts as guessing.
    """
    return verdicts.judge(
        rows,
        study.baseline,
        1 / classes,
        margin=study.margin / 100,
        tuned=(study.tuned_key or "value").rpartition(".")[2],
        by_nll=study.select_by == "nll",
    )


def write(
    name: str, study: Study, rows: Sequence[dict], found: Findings, others: Mapping[str, Sequence[Outcome]], source: str
) -> None:
    """Writes the study's folders anew: of results trainings.csv, curves.csv, table.csv, gradients.csv (of deep
    networks), verdicts.md and each figure as Vega-Lite; of figures each as .svg.

    Args:
        rows: of all trainings, see `worker.row`.
        others: what the studies that this one repeats found, by dataset.
        source: where the numbers come from, a line of verdicts.md.
    """
    from flows.figures import theme

    curves = curve_rows(rows)
    everywhere = across.Across(study.baseline, {**others, study.dataset: across.outcomes(found)}) if others else None
    with (
        file_io.whole_folder(paths.study_folder(name)) as unfinished,
        file_io.whole_folder(paths.study_figures(name)) as figures,
    ):
        write_csv(unfinished / "trainings.csv", [{key: row[key] for key in row if key not in LEFT_OUT} for row in rows])
        write_csv(unfinished / "curves.csv", curves)
        write_csv(unfinished / "table.csv", found.table())
        if norms := gradient_rows(rows):
            write_csv(unfinished / "gradients.csv", norms)
        charts = pictures.charts(found, rows, curves, f"{study.target:.0%} validation accuracy", norms)
        if everywhere:
            charts |= pictures.across_datasets(everywhere)
        for figure, chart in charts.items():
            theme.save(chart, figures / f"{figure}.svg")
            theme.save(chart, unfinished / f"{figure}.json")
        (unfinished / "verdicts.md").write_text(page(study, found, everywhere, source), encoding="utf-8")


def page(study: Study, found: Findings, everywhere: across.Across | None, source: str) -> str:
    """verdicts.md: the question, a sentence a variant, the table, and of a repeat the table across datasets."""
    said = "".join(f"* {in_markdown(sentence)}\n" for sentence in found.words())
    beside = f"\n## On {' and '.join(everywhere.datasets)}\n\n{everywhere.markdown()}" if everywhere else ""
    return f"# {in_markdown(study.about)}\n\n{said}\n{found.markdown()}\n{source}\n{beside}"


def outcomes(file: Path, variants: Iterable[str]) -> list[Outcome]:
    """The outcomes in a table.csv.

    Args:
        variants: their names, as they are without what a CSV file adds.
    """
    names = {in_csv(name): name for name in variants}
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            Outcome(
                names.get(row["variant"], row["variant"]),
                row["word"],
                number(row["difference"]),
                number(row["steps_to_target"]),
            )
            for row in csv.DictReader(stream)
        ]


def number(text: str) -> float | None:
    return float(text) if text else None


def curve_rows(rows: Sequence[dict]) -> list[dict]:
    """A row for each epoch of each training that is reported; tuning trials are in trainings.csv alone."""
    return [
        {key: row[key] for key in CURVE} | point for row in rows if row["setting"] != "tuning" for point in row["curve"]
    ]


def gradient_rows(rows: Sequence[dict]) -> list[dict]:
    """A row for each layer of each variant and seed; none for networks of a few layers, in which none vanishes."""
    norms = [row for row in rows if row["setting"] == "default" and len(row["gradient_norms"]) >= DEEP]
    return [
        {"variant": row["variant"], "seed": row["seed"], "layer": layer, "norm": norm}
        for row in norms
        for layer, norm in enumerate(row["gradient_norms"], 1)
    ]


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)


def plain(value: Any) -> Any:
    """A value as other programs read it: pandas takes an empty cell for NaN and `inf` for infinity."""
    if isinstance(value, str):
        return in_csv(value)
    return None if isinstance(value, float) and math.isnan(value) else value
