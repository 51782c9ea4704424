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
from flows.statistics.replicates import accuracy_text, wilson_interval

HEADINGS = (
    "", "replicas", "parameters", "validation accuracy", "validation nll", "test accuracy", "95% interval", "test nll",
    "test ece", "seconds",
)  # fmt: skip

LEGEND = (
    "Accuracy is the mean ± the sample standard deviation over replicas; its 95% interval (Wilson's) is what the "
    "number of test images leaves open."
)


def rows(params: Params) -> list[tuple[str, ...]]:
    """The table's rows: each member, then each ensemble method. Only the chosen method has test scores.

    Raises:
        InputError: there are no results yet.
    """
    from flows.data import dataset  # numpy

    try:
        members = {member: measurements.member_metrics(params.dataset, member) for member in params.members}
        ensemble = measurements.ensemble_metrics(params.dataset)
        methods_file = paths.plots_folder(params.dataset) / "ensemble" / "methods.csv"
        methods = list(csv.DictReader(methods_file.read_text(encoding="utf-8", errors="replace").splitlines()))
        if not methods or not {"method", "accuracy", "nll"} <= methods[0].keys():
            raise file_io.damaged(methods_file, "is damaged", healing.heal(methods_file, "ensemble"))
        images = dataset.read_card(params.dataset)["counts"]["test"]
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: run `make repro`") from None
    table: list[tuple[str, ...]] = []
    for name, numbers in members.items():
        validation, test = numbers["validation"], numbers["test"]
        size = (str(numbers["replicas"]), f"{numbers['parameters']:,}")
        chosen_on = (accuracy_text(validation), f"{validation['nll']:.4f}")
        measured = (accuracy_text(test), *score_columns(test, images))
        table.append((name, *size, *chosen_on, *measured, seconds(params.dataset, name)))
    test = ensemble["test"]
    for numbers in methods:
        chosen = numbers["method"] == ensemble["method"]
        size = (str(ensemble["networks"]), f"{ensemble['parameters']:,}")
        chosen_on = (f"{float(numbers['accuracy']):.2%}", f"{float(numbers['nll']):.4f}")
        measured = (f"{test['accuracy']:.2%}", *score_columns(test, images)) if chosen else ("",) * 4
        table.append((f"{numbers['method']}{' *' if chosen else ''}", *size, *chosen_on, *measured, ""))
    return table


def score_columns(test: dict[str, float], images: int) -> tuple[str, str, str]:
    """The columns after the test accuracy: its interval, NLL and ECE."""
    low, high = wilson_interval(test["accuracy"], images)
    return f"{low:.1%} to {high:.1%}", f"{test['nll']:.4f}", f"{test['ece']:.4f}"


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
    lines = rows(params)
    if markdown:
        for line in (HEADINGS, ("---", *("---:" for _ in HEADINGS[1:])), *lines):
            click.echo(f"| {' | '.join(line)} |")
        return
    table = Table(title=params.dataset, title_justify="left")
    for heading in HEADINGS:
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
        f"{LEGEND} The way to vote (*) was chosen by its validation "
        f"{'NLL' if params.ensemble.select_by == 'nll' else 'accuracy'} and scored once on test."
    )
