"""A small convolutional network."""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.interface import Activation, Shape
from lightning_modules.regularization.dropout import Dropout

# Largest height and width in front of a fully connected layer: without a limit, photographs would give it a hundred
# million weights.
LARGEST_SIDE = 8


def halve(size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """Returns a 2×2 max pooling and the size after it. A side of fewer than four positions is not pooled."""
    steps = tuple(2 if side >= 4 else 1 for side in size)
    return nn.MaxPool2d(steps), (size[0] // steps[0], size[1] // steps[1])


def cnn(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: float,
    channels: Sequence[int],
    hidden: int,
) -> nn.Module:
    """Five convolutions, two fully connected layers: conv5×5, pool, conv5×5, pool, three conv3×3, fc, dropout, out.

    Pooling comes before activation: a quarter of the work, and the same result for every non-decreasing activation.
    """
    first, second, *rest = channels
    pool_1, size = halve(shape[:2])
    pool_2, size = halve(size)
    layers = [
        nn.Conv2d(shape[2], first, 5, padding=2), pool_1, activation(),
        nn.Conv2d(first, second, 5, padding=2), pool_2, activation(),
    ]  # fmt: skip
    width = second
    for count in rest:
        layers += [nn.Conv2d(width, count, 3, padding=1), activation()]
        width = count
    # Not AdaptiveAvgPool2d: its gradient is not deterministic on a GPU.
    window = (-(-size[0] // LARGEST_SIDE), -(-size[1] // LARGEST_SIDE))
    fitted = (-(-size[0] // window[0]), -(-size[1] // window[1]))
    if window != (1, 1):
        layers.append(nn.AvgPool2d(window, ceil_mode=True))
    layers += [nn.Flatten(), nn.Linear(width * fitted[0] * fitted[1], hidden), activation(), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))
