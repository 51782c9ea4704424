"""`python -m benchmarks [NAME...]`: measures, prints a markdown table and writes .trainyard/benchmarks.json."""

import importlib
import os
import platform

import click

from flows import hardware, project
from flows.tracking import git_state

NAMES = ("data_path", "pipeline", "gpu")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
def main(names: tuple[str, ...]) -> None:
    """Measure NAMES, by default all: every figure is a median of five after a warm-up, ratios are taken in turn."""
    rows = []
    for name in names or NAMES:
        click.echo(f"measuring {name}: a minute or two", err=True)
        rows += importlib.import_module(f"benchmarks.{name}").measure()
    columns = ("what", "ours", "other", "ratio", "goal")
    click.echo(f"| {' | '.join(columns)} | reached |")
    click.echo(f"|{'---|' * (len(columns) + 1)}")
    for row in rows:
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        click.echo(f"| {' | '.join(row[column] for column in columns)} | {reached} |")
    commit, dirty = git_state()
    conditions = {
        "processor": platform.processor() or platform.machine(),
        "cores": hardware.cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": commit + (" (changed)" if dirty else ""),
    }
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in conditions.items()))
    project.write_json(project.state_folder() / "benchmarks.json", {"conditions": conditions, "rows": rows})


if __name__ == "__main__":
    main()
