"""Surfaces of two parameters with a lowest value, on which optimizers can be watched.

Beale, Rosenbrock and Himmelblau are test functions of optimization: Beale, On an iterative method for finding a local
minimum of a function of more than one variable, 1958; Rosenbrock, An automatic method for finding the greatest or least
value of a function, 1960; Himmelblau, Applied Nonlinear Programming, 1972.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """A function to go down on.

    Attributes:
        title: as in a sentence.
        height: of x and y, tensors of one shape.
        start: where all begin.
        minima: where it is lowest.
        least: its height there.
        x, y: the part that is drawn, from and to.
    """

    title: str
    height: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    least: float
    x: tuple[float, float]
    y: tuple[float, float]


def beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """Flat at 0, where the way down is across: to the minima at y = ±√2."""
    return x**2 - y**2 + y**4 / 4


def valley(x: Tensor, y: Tensor) -> Tensor:
    """A hundred times as steep across as along. It lies askew, so that no parameter goes along it by itself."""
    along, across = x * math.cos(0.5) + y * math.sin(0.5), y * math.cos(0.5) - x * math.sin(0.5)
    return 0.01 * along**2 + across**2


SURFACES = {
    "beale": Surface("Beale's surface", beale, (1.0, 1.6), ((3.0, 0.5),), 0.0, (-1.5, 4.5), (-2.4, 2.2)),
    "rosenbrock": Surface(
        "Rosenbrock's valley", rosenbrock, (-1.2, 1.0), ((1.0, 1.0),), 0.0, (-2.0, 2.0), (-0.75, 2.25)
    ),
    "himmelblau": Surface(
        "Himmelblau's surface",
        himmelblau,
        (0.2, -0.4),
        ((3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848127)),
        0.0,
        (-6.0, 6.0),
        (-4.6, 4.6),
    ),
    "saddle": Surface(
        "the saddle", saddle, (-1.5, 0.02), ((0.0, math.sqrt(2)), (0.0, -math.sqrt(2))), -1.0, (-2.0, 2.0), (-2.1, 2.1)
    ),
    "valley": Surface("the long valley", valley, (-7.5, -1.5), ((0.0, 0.0),), 0.0, (-9.5, 3.0), (-6.0, 3.5)),
}
