"""`trainyard results`: the table of members and ensembles, as evaluate and ensemble measured them."""

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.reporting import results


@click.command()
@click.option("--markdown", is_flag=True, help="As a markdown table.")
def command(markdown: bool) -> None:
    """Print the table of members and ensembles of the dataset in params.yaml."""
    results.show(read(), markdown)


if __name__ == "__main__":
    run(command)
