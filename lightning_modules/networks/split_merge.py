"""A network of blocks that split into parallel branches and merge again."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import convolution, dropouts, halved

BRANCHES = 4


class Concatenation(nn.Module):
    """Puts the channels of several images, each N×C×H×W, behind one another."""

    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.cat(images, 1)


class Branches(nn.Module):
    """Four branches whose channels are concatenated: a convolution of 1×1; one of 1×1 and one of 3×3; one of 1×1 and
    one of 5×5; and a pooling over 3×3 with a convolution of 1×1.

    The pooling takes the mean, as in the later versions of the published network: overlapping windows of which each
    takes its maximum have no deterministic gradient on every GPU.
    """

    def __init__(self, inputs: int, width: int, activation: Activation, batch_norm: bool) -> None:
        super().__init__()

        def convolved(channels: int, kernel: int) -> list[nn.Module]:
            return convolution(channels, width, kernel, activation, batch_norm)

        self.single = nn.Sequential(*convolved(inputs, 1))
        self.three = nn.Sequential(*convolved(inputs, 1), *convolved(width, 3))
        self.five = nn.Sequential(*convolved(inputs, 1), *convolved(width, 5))
        mean = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.pooled = nn.Sequential(mean, *convolved(inputs, 1))
        self.merge = Concatenation()

    def forward(self, images: Tensor) -> Tensor:
        return self.merge([self.single(images), self.three(images), self.five(images), self.pooled(images)])


def split_merge(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: Dropouts,
    widths: Sequence[int],
    batch_norm: bool = False,
) -> nn.Module:
    """A convolution, then a block of four branches for each of `widths`, the channels of each of its branches; between
    the blocks max pooling halves the sides.

    Source: Szegedy et al., Going Deeper with Convolutions, 2015, whose nine blocks are of the same kind.
    """
    layers = convolution(shape[2], widths[0], 3, activation, batch_norm)
    size, inputs = shape[:2], widths[0]
    for number, width in enumerate(widths):
        if number:
            window, size = halved(size)
            layers.append(nn.MaxPool2d(window))
        layers.append(Branches(inputs, width, activation, batch_norm))
        inputs = BRANCHES * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropouts(dropout, 1)]
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
