"""Writes params.schema.json, the JSON Schema by which editors check params.yaml.
Run     python -m flows.commands.params_schema
"""

import click

from flows.commands import console
from flows.params import schema
from flows.project import file_io, paths


@click.command()
def command() -> None:
    """Write params.schema.json, the JSON Schema by which editors check params.yaml."""
    file_io.write_if_changed(paths.root() / schema.FILE, schema.text())


if __name__ == "__main__":
    console.run(command)
