"""The networks, each built for the shape of the images. Input: N×C×H×W floats. Output: N×classes logits."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_modules.activations import ACTIVATIONS
from lightning_modules.airbench import Airbench
from lightning_modules.dropout import Dropout
from lightning_modules.initializers import initialize

Shape = tuple[int, int, int]  # height, width, channels

# Number of training images that `prepare` gives to a network.
PREPARED = 5000

# Largest height and width in front of a fully connected layer: without a limit, photographs would give it a hundred
# million weights.
LARGEST_SIDE = 8


def mlp(shape: Shape, classes: int, activation: type[nn.Module], dropout: float, hidden: Sequence[int]) -> nn.Module:
    """Fully connected layers, dropout after each hidden one."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape[0] * shape[1] * shape[2]
    for size in hidden:
        layers += [nn.Linear(width, size), activation(), Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))


def halve(size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """Returns a 2×2 max pooling and the size after it. A side of fewer than four positions is not pooled."""
    steps = tuple(2 if side >= 4 else 1 for side in size)
    return nn.MaxPool2d(steps), (size[0] // steps[0], size[1] // steps[1])


def cnn(
    shape: Shape, classes: int, activation: type[nn.Module], dropout: float, channels: Sequence[int], hidden: int
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


class Residual(nn.Module):
    """Two convolutions with a skip connection; normalisation and activation come before each convolution.

    Source: He, Zhang, Ren and Sun, Identity Mappings in Deep Residual Networks, 2016.
    """

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), activation())
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        same = inputs == outputs and stride == (1, 1)
        self.rows, self.columns = stride
        self.skip = None if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = self.activate(images)
        # Subsampled, then convolved with stride 1. In the weight gradient of a strided 1×1 convolution in channels_last
        # with fewer than 8 channels oneDNN writes past its buffer on processors without AVX-512 (oneDNN issue 6035).
        skipped = images if self.skip is None else self.skip(activated[:, :, :: self.rows, :: self.columns])
        return self.residual(activated) + skipped


def resnet(
    shape: Shape, classes: int, activation: type[nn.Module], dropout: float, width: int, blocks: Sequence[int]
) -> nn.Module:
    """Stages of residual blocks; each stage after the first doubles the channels and halves the sides."""
    layers: list[nn.Module] = [nn.Conv2d(shape[2], width, 3, padding=1, bias=False)]
    size, inputs = shape[:2], width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(count):
            down = stage > 0 and block == 0
            stride = (2 if down and size[0] >= 4 else 1, 2 if down and size[1] >= 4 else 1)
            layers.append(Residual(inputs, outputs, stride, activation))
            size = (-(-size[0] // stride[0]), -(-size[1] // stride[1]))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "airbench": Airbench}


def build(recipe: dict, shape: Sequence[int], classes: int) -> nn.Module:
    """Builds and initialises the network of a member's recipe, drawing from torch's global generator.

    Args:
        recipe: a member of params.yaml: network (name and hyper-parameters), activation, initializer, dropout.
        shape: height, width and channels of an image.
        classes: number of logits.
    """
    settings = dict(recipe["network"])
    network = NETWORKS[settings.pop("name")](
        tuple(shape), classes, ACTIVATIONS[recipe["activation"]], recipe["dropout"], **settings
    )
    initialize(network, recipe["initializer"])
    return network


def prepare(network: nn.Module, first: Callable[[int], Tensor]) -> None:
    """Runs the network's own `prepare` on training images, if it has one. Called once, before training.

    Args:
        first: returns the first N training images, normalised, N×C×H×W; only called if the network needs them.
    """
    if prepared := getattr(network, "prepare", None):
        prepared(first(PREPARED))


def groups(network: nn.Module) -> list[dict]:
    """The parameter groups for an optimizer: one group, and one more for each parameter that is frozen early, with the
    share of the training after which it is as `until`."""
    ending: dict[nn.Parameter, float] = getattr(network, "ending", dict)()
    rest = [parameter for parameter in network.parameters() if parameter not in ending]
    return [{"params": rest}, *({"params": [parameter], "until": until} for parameter, until in ending.items())]
