"""Prints the links into MLflow's pages as JSON, for a process that has not loaded MLflow, which takes seconds.
Run     python -m flows.commands.pages
"""

import json

import click

from flows.commands.console import run
from flows.tracking import page_links


@click.command(help=__doc__)
def command() -> None:
    click.echo(json.dumps(page_links.pages()))


if __name__ == "__main__":
    run(command, libraries=True)
