"""The table of results: members and ensemble methods, with the scores from stages evaluate and ensemble."""

import csv

import click
from rich.console import Console
from rich.table import Table

from flows.graph import healing
from flows.models import measurements
from flows.params.params_file import Params
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.reporting import by_task


def rows(params: Params) -> list[tuple[str, ...]]:
    """The table's rows: each member, then each ensemble method. Only the chosen method has test scores.

    Raises:
        InputError: there are no results yet.
    """
    from flows.data import dataset  # numpy

    task = params.feed.task
    try:
        members = {member: measurements.member_metrics(params.dataset, member) for member in params.members}
        ensemble = measurements.ensemble_metrics(params.dataset)
        methods_file = paths.plots_folder(params.dataset) / "ensemble" / "methods.csv"
        methods = list(csv.DictReader(methods_file.read_text(encoding="utf-8", errors="replace").splitlines()))
        shown = (by_task.FIRST[task], by_task.CHOSEN_BY[task])
        try:
            of_methods = {row["method"]: {score: float(row[score]) for score in shown} for row in methods}
        except (KeyError, TypeError, ValueError):
            of_methods = {}
        if not of_methods:
            raise file_io.damaged(methods_file, "is damaged", healing.heal(methods_file, "ensemble"))
        images = dataset.read_card(params.dataset)["counts"]["test"]
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run `make repro`") from None
    table: list[tuple[str, ...]] = []
    for name, numbers in members.items():
        validation, test = numbers["validation"], numbers["test"]
        size = (str(numbers["replicas"]), f"{numbers['parameters']:,}")
        chosen_on = (by_task.first_text(task, validation), by_task.chosen_text(task, validation))
        measured = (by_task.first_text(task, test), *by_task.test_cells(task, test, images))
        table.append((name, *size, *chosen_on, *measured, seconds(params.dataset, name)))
    test = ensemble["test"]
    for method, of_method in of_methods.items():
        chosen = method == ensemble["method"]
        size = (str(ensemble["networks"]), f"{ensemble['parameters']:,}")
        chosen_on = (by_task.first_text(task, of_method), by_task.chosen_text(task, of_method))
        cells = (by_task.first_text(task, test), *by_task.test_cells(task, test, images))
        measured = cells if chosen else ("",) * len(cells)
        table.append((f"{method}{' *' if chosen else ''}", *size, *chosen_on, *measured, ""))
    return table


def seconds(dataset: str, member: str) -> str:
    """The seconds that the training took; empty where the weights were not trained on this machine."""
    from flows.models import trained_members  # numpy

    # A damaged note counts as none.
    noted = file_io.read_or_anew(
        paths.seconds_file(dataset, member),
        lambda found: (found["weights_sha256"], f"{found['seconds']:.1f}"), None, say=False,
    )  # fmt: skip
    if noted is None or not (paths.model_folder(dataset, member) / "member.json").exists():
        return ""
    same = noted[0] == [replica["weights_sha256"] for replica in trained_members.card(dataset, member)["replicas"]]
    return noted[1] if same else ""


def show(params: Params, markdown: bool = False) -> None:
    """Prints the table."""
    lines, headings, legend = rows(params), by_task.headings(params.feed.task), by_task.legend(params.feed.task)
    if markdown:
        for line in (headings, ("---", *("---:" for _ in headings[1:])), *lines):
            click.echo(f"| {' | '.join(line)} |")
        return
    table = Table(title=params.dataset, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for number, line in enumerate(lines):
        last_member = number + 1 < len(lines) and lines[number + 1][0].startswith(tuple(params.ensemble.labels))
        table.add_row(*line, end_section=last_member and line[0] in params.members)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
    # Not printed by rich, which would wrap it: a log has no width.
    click.echo(
        f"{legend} The way to vote (*) was chosen by its validation "
        f"{by_task.selected_by(params.feed.task, params.ensemble.select_by)} and scored once on test."
    )
