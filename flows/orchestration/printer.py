"""Lines of stages that run side by side, on one terminal."""

from collections.abc import Callable, Sequence

import click

PALETTE = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


def printer(stages: Sequence[str]) -> Callable[[str, str], None]:
    """A function of stage and line, which prints the line behind the stage's name; each stage has its own colour on a
    terminal."""
    width = max(map(len, stages))
    colour = {stage: PALETTE[index % len(PALETTE)] for index, stage in enumerate(stages)}

    def say(stage: str, line: str) -> None:
        click.echo(f"{click.style(f'{stage:<{width}} |', fg=colour[stage])} {line}")

    return say
