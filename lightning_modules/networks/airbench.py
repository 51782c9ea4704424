"""A convolutional network that learns CIFAR-10 in a few epochs.

Source: Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (arXiv:2404.00498), and the programs
published with it (airbench94 and airbench96), after ideas of Page (myrtle.ai, 2019) and tysam-code (hlb-CIFAR10, 2023).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.networks.interface import Activation, Dropouts
from lightning_modules.networks.layers import BatchNorm2d, dropouts

# Constants of the published programs.
NORM_MOMENTUM = 0.4  # momentum of BatchNorm's running statistics: training is too short for torch's 0.1
SCALE = 1 / 9  # factor on the logits
PIECE = 100  # images whose patches are in memory at a time
WHITENING_EPSILON = 5e-4  # added to each variance before the filters are divided by its root
WHITENING_UNTIL = 3 / 8  # share of the training after which the whitening's bias is frozen


class Whitening(nn.Module):
    """A convolution with fixed 2×2 filters whose outputs, on the training images, are uncorrelated and of variance one.

    The filters are the eigenvectors of the patches' covariance, each with both signs. Only the bias is learned: the
    filters are a buffer, which no optimizer sees and which is saved with the weights.
    """

    filters: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = shape
        patch = (channels, min(2, height), min(2, width))
        count = patch[0] * patch[1] * patch[2]
        self.outputs = 2 * count
        # One filter for each pixel of a patch, until `fit` sets them.
        filters = torch.eye(count).reshape(count, *patch)
        self.register_buffer("filters", torch.cat((filters, -filters)))
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Sets the filters. The same images give the same filters.

        Args:
            images: normalised, N×C×H×W.
        """
        _, channels, rows, columns = self.filters.shape
        size = channels * rows * columns
        products, count = torch.zeros(size, size, dtype=torch.float64), 0
        for part in images.split(PIECE):
            patches = part.unfold(2, rows, 1).unfold(3, columns, 1)  # N × C × positions down × right × rows × columns
            patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
            products += (patches.T @ patches).double().cpu()
            count += len(patches)
        # Not centred: the published covariance is taken about zero, and the mean of normalised images is near it.
        variances, directions = torch.linalg.eigh(products / count)
        scaled = directions.T / (variances + WHITENING_EPSILON).sqrt()[:, None]
        filters = scaled.reshape(-1, channels, rows, columns)
        self.filters.copy_(torch.cat((filters, -filters)))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters, self.bias)


class Norm(BatchNorm2d):
    """Batch normalisation with a learned bias and no learned scale: the next layer learns one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=NORM_MOMENTUM)
        del self.weight
        self.register_buffer("weight", torch.ones(channels))


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Block(nn.Module):
    """A convolution and a pooling, then `depth` - 1 more convolutions, with a skip connection around two or more."""

    def __init__(self, inputs: int, outputs: int, depth: int, pool: tuple[int, int], activation: Activation) -> None:
        super().__init__()
        # Pooling comes before normalisation, which leaves a quarter of the work.
        self.entrance = nn.Sequential(convolution(inputs, outputs), nn.MaxPool2d(pool), Norm(outputs), activation())
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [convolution(outputs, outputs), Norm(outputs), activation()]
        self.body = nn.Sequential(*layers[:-1])
        self.activate = activation() if layers else nn.Identity()
        self.skips = depth > 2

    def forward(self, images: Tensor) -> Tensor:
        entered = self.entrance(images)
        return self.activate(self.body(entered) + entered if self.skips else self.body(entered))


class Airbench(nn.Module):
    """Whitening, blocks that each halve height and width, global max pooling, and a linear layer.

    Args:
        widths: channels of each block. [64, 256, 256] with `depth` 2 is airbench94, [128, 512, 512] with 3 airbench96.
        depth: convolutions per block.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, activation: Activation, dropout: Dropouts,
        widths: Sequence[int], depth: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.whitening = Whitening(shape)
        _, _, rows, columns = self.whitening.filters.shape
        size, inputs = (shape[0] - rows + 1, shape[1] - columns + 1), self.whitening.outputs
        blocks = []
        for outputs in widths:
            pool = (2 if size[0] >= 4 else 1, 2 if size[1] >= 4 else 1)
            blocks.append(Block(inputs, outputs, depth, pool, activation))
            size, inputs = (size[0] // pool[0], size[1] // pool[1]), outputs
        self.blocks = nn.Sequential(activation(), *blocks, nn.MaxPool2d(size), nn.Flatten(), *dropouts(dropout, 1))
        self.head = nn.Linear(inputs, classes, bias=False)

    def prepare(self, images: Tensor) -> None:
        """Fits the whitening to training images (normalised, N×C×H×W), once before training."""
        self.whitening.fit(images)

    def ending(self) -> dict[nn.Parameter, float]:
        """The parameters that are frozen early, each with the share of the training after which it is."""
        return {self.whitening.bias: WHITENING_UNTIL}

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.whitening(images))) * SCALE
