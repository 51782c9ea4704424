"""Prints the links into MLflow's pages as JSON, for a process that would take seconds to load MLflow.

Run     python -m flows.pages
"""

import json

import click

from flows import tracking
from flows.console import run


@click.command(help=__doc__)
def command() -> None:
    click.echo(json.dumps(tracking.pages()))


if __name__ == "__main__":
    run(command, libraries=True)
