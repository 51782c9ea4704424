"""A residual network."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import BatchNorm2d, dropouts


def normalisation(channels: int, batch_norm: bool) -> nn.Module:
    return BatchNorm2d(channels) if batch_norm else nn.Identity()


class Residual(nn.Module):
    """Two convolutions with a skip connection or none; normalisation and activation come before each convolution.

    Source: He, Zhang, Ren and Sun, Identity Mappings in Deep Residual Networks, 2016.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int], activation: Activation, skips: bool, batch_norm: bool
    ) -> None:
        super().__init__()
        self.activate = nn.Sequential(normalisation(inputs, batch_norm), activation())
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not batch_norm),
            normalisation(outputs, batch_norm),
            activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=not batch_norm),
        )
        same = inputs == outputs and stride == (1, 1)
        self.rows, self.columns = stride
        self.skips = skips
        self.skip = None if same or not skips else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = self.activate(images)
        if not self.skips:
            return self.residual(activated)
        # Subsampled, then convolved with stride 1. In the weight gradient of a strided 1×1 convolution in channels_last
        # with fewer than 8 channels oneDNN writes past its buffer on processors without AVX-512 (oneDNN issue 6035).
        skipped = images if self.skip is None else self.skip(activated[:, :, :: self.rows, :: self.columns])
        return self.residual(activated) + skipped


def resnet(
    shape: Shape,
    classes: int,
    activation: Activation,
    dropout: Dropouts,
    width: int,
    blocks: Sequence[int],
    skips: bool = True,
    batch_norm: bool = True,
) -> nn.Module:
    """Stages of residual blocks; each stage after the first doubles the channels and halves the sides.

    Args:
        skips: False: the same layers without the connections around them, the plain network that the residual one was
            compared with (He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016).
        batch_norm: False: the convolutions have biases instead.
    """
    layers: list[nn.Module] = [nn.Conv2d(shape[2], width, 3, padding=1, bias=not batch_norm)]
    size, inputs = shape[:2], width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(count):
            down = stage > 0 and block == 0
            stride = (2 if down and size[0] >= 4 else 1, 2 if down and size[1] >= 4 else 1)
            layers.append(Residual(inputs, outputs, stride, activation, skips, batch_norm))
            size = (-(-size[0] // stride[0]), -(-size[1] // stride[1]))
            inputs = outputs
    layers += [normalisation(inputs, batch_norm), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *dropouts(dropout, 1), nn.Linear(inputs, classes))
