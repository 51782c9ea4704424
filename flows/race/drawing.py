"""Writes a race as a still figure and as an animation."""

import math
from collections.abc import Sequence
from pathlib import Path

from flows.project import file_io
from flows.project.errors import counted
from flows.race import racing
from flows.race.surfaces import Surface

GRID = 141  # heights along each side of the drawn part


def draw(surface: Surface, name: str, paths: Sequence[racing.Path], steps: int, folder: Path) -> list[Path]:
    """Writes <name>.svg, <name>.png and <name>-animated.svg. Returns their paths."""
    import numpy as np
    import torch

    from flows.figures import animation, race, theme

    x, y = (torch.linspace(*ends, GRID, dtype=torch.float64) for ends in (surface.x, surface.y))
    up, across = torch.meshgrid(y, x, indexing="ij")
    heights = np.maximum(surface.height(across, up).numpy() - surface.least, 0.0)
    rows = [
        {"optimizer": one.optimizer, "places": one.places, "text": f"{place}  {one.optimizer}: {arrival(one)}"}
        for place, one in enumerate(paths, 1)
    ]

    def chart(marked: bool) -> theme.Chart:
        return race.race(
            rows,
            heights,
            x.numpy(),
            y.numpy(),
            surface.minima,
            sorted(one.optimizer for one in paths),
            headline(surface, paths, steps),
            subtitle(steps),
            marked,
        )

    files = [folder / f"{name}.svg", folder / f"{name}.png", folder / f"{name}-animated.svg"]
    still = chart(marked=True)
    theme.save(still, files[0])
    theme.save(still, files[1])
    moving = animation.animated(theme.svg(chart(marked=False)), race.TRAILS)
    with file_io.whole(files[2]) as temporary:
        temporary.write_text(moving, encoding="utf-8")
    return files


def arrival(one: racing.Path) -> str:
    said = f"{one.arrived:,} steps" if math.isfinite(one.arrived) else "not there"
    return f"{said} (lr {one.rate:.3g})"


def headline(surface: Surface, paths: Sequence[racing.Path], steps: int) -> str:
    first, missing = paths[0], sum(math.isinf(one.arrived) for one in paths)
    if math.isinf(first.arrived):
        return f"None is down on {surface.title} within {counted(steps, 'step')}; {first.optimizer} gets lowest"
    late = f"; {missing} of {len(paths)} {'is' if missing == 1 else 'are'} not there after {steps:,}" if missing else ""
    return f"{first.optimizer} is down first on {surface.title}, in {counted(int(first.arrived), 'step')}{late}"


def subtitle(steps: int) -> str:
    return (
        f"From the circle to a star. Each at its best of {len(racing.RATES)} learning rates, {racing.RATES[0]:g} to "
        f"{racing.RATES[-1]:g}: the one that is first within {racing.NEAR:.1%} of the start's height above the minimum "
        f"to stay, else the lowest after {counted(steps, 'step')}."
    )
