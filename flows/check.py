"""Stage check: `python -m flows.check` reads params.yaml and refuses what cannot work.

It depends on the whole file, while every other stage depends on its own part of it: a misspelt key is found even
where no other stage would look.
"""

import click

from flows.console import run
from flows.params import read


@click.command()
def command() -> None:
    """Check params.yaml: every key, name and range."""
    params = read()
    click.echo(f"params.yaml: dataset {params.dataset}, members {', '.join(params.members)}")


if __name__ == "__main__":
    run(command)
