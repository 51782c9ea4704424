"""`trainyard race`: optimizers race over surfaces that one can look at.

Writes  OUTPUT/<surface>.svg, .png and -animated.svg
Run     python -m flows.commands.race
"""

from pathlib import Path

import click

from flows.machine.console import run
from flows.project import paths

SURFACES = ("beale", "rosenbrock", "himmelblau", "saddle", "valley")


@click.command()
@click.option("--surface", "surfaces", multiple=True, type=click.Choice(SURFACES), help="Which; by default all.")
@click.option("--optimizers", "names", metavar="A,B,C", help="Which race; by default seven that many know.")
@click.option("--steps", default=200, show_default=True, type=click.IntRange(1, 2000), help="Of each optimizer.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("plots/race"),
    show_default=True,
    help="A folder for the figures.",
)
def command(surfaces: tuple[str, ...], names: str | None, steps: int, output: Path) -> None:
    """Let optimizers race down surfaces with two parameters, and draw their paths.

    They are the classes that train networks. Each races at the best of eleven learning rates from 0.0001 to 10, half a
    decade apart: an untuned rival would say nothing. Of each surface there are a figure (SVG and PNG) and an animation
    (an SVG that browsers play).

    A race is a picture of how optimizers move, and no study: which one trains a network best it does not say.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from flows.race import drawing, racing
    from flows.race.surfaces import SURFACES as KNOWN

    torch.set_num_threads(1)  # two numbers are no work for more
    given = racing.known([name.strip() for name in names.split(",")] if names is not None else racing.DEFAULT)
    chosen = list(dict.fromkeys(surfaces)) or list(SURFACES)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("race", total=len(chosen) * len(given))
        for name in chosen:
            progress.update(task, description=name)
            surface = KNOWN[name]
            found = racing.race(surface, given, steps, lambda: progress.advance(task))
            files = drawing.draw(surface, name, found, steps, output)
            click.echo(
                f"{drawing.headline(surface, found, steps)}: {', '.join(str(paths.shown(file)) for file in files)}"
            )


if __name__ == "__main__":
    run(command)
