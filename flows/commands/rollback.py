"""`trainyard rollback`: the previous champion becomes champion again, and the champion the previous one.

Reads   the aliases in MLflow's registry
Writes  the aliases champion and previous_champion, and a tag of the model that says so
Run     python -m flows.commands.rollback
"""

import click

from flows.machine.console import run
from flows.params.params_file import read


@click.command()
@click.option("--dataset", help="Whose champion; by default that of params.yaml.")
def command(dataset: str | None) -> None:
    """Take the champion back: the previous one becomes champion again.

    The two change places, so that a second rollback undoes the first. The gate does not let a challenger that was taken
    back pass, until another one is champion. An interrupted rollback is finished.
    """
    from flows.promotion import promoting

    dataset = dataset or read().dataset
    aliases = promoting.rollback(dataset)
    click.echo(
        f"{dataset}: version {aliases['champion']} is champion again; version {aliases['previous_champion']} is kept"
    )


if __name__ == "__main__":
    run(command)
