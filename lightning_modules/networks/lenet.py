"""LeNet-5, which read the digits of cheques."""

from collections.abc import Sequence

from torch import nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import convolution, dense, dropouts, halved, limited

KERNEL = 5
# Fewest positions of a side that the first and the second convolution do not pad. 32 pixels are the published size.
LEAST = (32, 2 * KERNEL)


def lenet(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: Dropouts,
    channels: Sequence[int],
    hidden: Sequence[int],
    batch_norm: bool = False,
) -> nn.Module:
    """Two convolutions of 5×5, an average pooling after each, and fully connected layers, dropout after each of these.

    On images of 32×32, and of 28×28, whose border is added, the layers have the published sizes. The first convolution
    pads sides of fewer than 32 pixels, the second one sides of fewer than ten positions; sides of fewer than four are
    not pooled. The recipe's activation and linear logits replace scaled tanh and radial basis functions; poolings
    have no weights, and the second convolution sees all channels of the first, of which the published one leaves some
    out.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    layers: list[nn.Module] = []
    size, width = shape[:2], shape[2]
    for count, least in zip(channels, LEAST):
        rows, columns = (KERNEL // 2 if side < least else 0 for side in size)
        size = (size[0] + 2 * rows - KERNEL + 1, size[1] + 2 * columns - KERNEL + 1)
        window, size = halved(size)
        layers += [*convolution(width, count, KERNEL, activation, batch_norm, (rows, columns)), nn.AvgPool2d(window)]
        width = count
    pooling, size = limited(size)
    layers += [*pooling, nn.Flatten()]
    width *= size[0] * size[1]
    for units, dropping in zip(hidden, dropouts(dropout, len(hidden))):
        layers += [*dense(width, units, activation, batch_norm), dropping]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))
