"""Stage code of studies/dvc.yaml: writes the digest of the code that a study reaches.

Reads   the code in flows/ and lightning_modules/
Writes  studies/study.code
Run     python -m flows.studies.code
"""

import click

from flows.graph import code_digest
from flows.machine.console import run
from flows.project import file_io, paths


@click.command()
def command() -> None:
    """Write the digest of the code that a study reaches, without comments."""
    digest = code_digest.digest("study")
    file_io.write_if_changed(paths.root() / "studies" / "study.code", f"{digest}\n")
    click.echo(f"code of studies: {digest[:12]}")


if __name__ == "__main__":
    run(command)
