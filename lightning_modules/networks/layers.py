"""The layers that networks share: each a list, to be put one after another."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.errors import InputError
from lightning_modules.networks.interface import Activation, Dropouts
from lightning_modules.regularization.dropout import Dropout

# Largest height and width in front of a fully connected layer: without a limit, photographs would give it a hundred
# million weights.
LARGEST_SIDE = 8

Size = tuple[int, int]  # height and width


def has_variance(values: Tensor) -> bool:
    """Whether a mini-batch, N×C×..., has more than one value for each channel. torch refuses to normalise one value."""
    return values.numel() > values.shape[1]


class BatchNorm1d(nn.BatchNorm1d):
    """torch's, which also takes a mini-batch of one image: the last of an epoch, or a process's part. It is normalised
    by the running statistics, as in evaluation.

    Source: Ioffe and Szegedy, Batch Normalization, 2015.
    """

    def forward(self, values: Tensor) -> Tensor:
        if self.training and not has_variance(values):
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        return super().forward(values)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, which also takes a single value for each channel, as `BatchNorm1d`."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not has_variance(images):
            return F.batch_norm(images, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        return super().forward(images)


def in_parts(layer: nn.Module, parts: int) -> nn.Module:
    """The layer, whose outputs are those of `parts` layers, one after another: initializers draw each by itself."""
    if parts > 1:
        layer.parts = parts  # type: ignore[assignment]  # torch's stubs know parameters and modules alone
    return layer


def dense(inputs: int, outputs: int, activation: Activation, batch_norm: bool) -> list[nn.Module]:
    """A fully connected layer, batch normalisation or none, and the activation. Normalisation has the bias then."""
    wide = activation.pieces * outputs
    layer = in_parts(nn.Linear(inputs, wide, bias=not batch_norm), activation.pieces)
    return [layer, *([BatchNorm1d(wide)] if batch_norm else []), activation()]


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    activation: Activation,
    batch_norm: bool,
    padding: int | Size | None = None,
    pool: nn.Module | None = None,
) -> list[nn.Module]:
    """A convolution, a pooling or none, batch normalisation or none, and the activation.

    Max pooling comes before them: a quarter of the work, and the same result for every non-decreasing activation.

    Args:
        padding: None: as much as keeps height and width.
    """
    wide = activation.pieces * outputs
    around = kernel // 2 if padding is None else padding
    layer = in_parts(nn.Conv2d(inputs, wide, kernel, padding=around, bias=not batch_norm), activation.pieces)
    between = [*([pool] if pool else []), *([BatchNorm2d(wide)] if batch_norm else [])]
    return [layer, *between, activation()]


def halved(size: Size) -> tuple[Size, Size]:
    """Window of a pooling by two, and the size after it. A side of fewer than four positions is not pooled."""
    rows, columns = (2 if side >= 4 else 1 for side in size)
    return (rows, columns), (size[0] // rows, size[1] // columns)


def limited(size: Size) -> tuple[list[nn.Module], Size]:
    """An average pooling where a side is too long for a fully connected layer to follow, and the size after it."""
    # Not AdaptiveAvgPool2d: its gradient is not deterministic on a GPU.
    window = (-(-size[0] // LARGEST_SIDE), -(-size[1] // LARGEST_SIDE))
    fitted = (-(-size[0] // window[0]), -(-size[1] // window[1]))
    return ([] if window == (1, 1) else [nn.AvgPool2d(window, ceil_mode=True)]), fitted


def dropouts(given: Dropouts, count: int) -> list[Dropout]:
    """The dropout layers of a network that has `count` of them.

    Raises:
        InputError: there are more or fewer rates than layers.
    """
    rates: Sequence[float] = [given] * count if isinstance(given, (int, float)) else given
    if len(rates) != count:
        raise InputError(f"dropout has {len(rates)} rates, but the network drops out in {count} places")
    return [Dropout(rate) for rate in rates]
