"""Networks of one shape as a single network, each of whose layers holds the stacked weights of all.

Small networks leave a processor waiting for the next small operation. R stacked networks need as many operations as
one network, each R times as large: matrix products become batched, convolutions grouped.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.activations import ACTIVATIONS
from lightning_modules.activations.maxout import Maxout
from lightning_modules.networks.layers import BatchNorm1d, BatchNorm2d, has_variance
from lightning_modules.networks.split_merge import Concatenation
from lightning_modules.regularization.dropout import Dropout

# Layers without parameters that treat each value or channel independently, so that they work on stacks as they are.
ALIKE = (*ACTIVATIONS.values(), nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)


class NotStackableError(TypeError):
    """A layer has no stacked version."""


def join(images: Tensor) -> Tensor:
    """R×N×C×H×W to N×(R·C)×H×W, the layout of grouped layers; four dimensions are returned unchanged."""
    return images if images.dim() == 4 else images.transpose(0, 1).flatten(1, 2)


class StackedLinear(nn.Module):
    """R linear layers as one batched matrix product: R×N×inputs to R×N×outputs."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = stacked([layer.weight for layer in layers])
        self.bias = stacked_biases([layer.bias for layer in layers])

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weight.transpose(1, 2)
        return torch.bmm(values, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], values, weight)


class StackedConv2d(nn.Module):
    """R convolutions as one with R groups: R×N×C×H×W or N×(R·C)×H×W to N×(R·outputs)×H×W."""

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        first = layers[0]
        if first.padding_mode != "zeros":
            raise NotStackableError(f"a convolution with {first.padding_mode} padding cannot be stacked")
        self.settings: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
        self.groups = first.groups * len(layers)
        self.weight = stacked([layer.weight for layer in layers])
        self.bias = stacked_biases([layer.bias for layer in layers])

    def forward(self, images: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(join(images), self.weight.flatten(0, 1), bias, **self.settings, groups=self.groups)


class StackedBatchNorm2d(nn.Module):
    """R batch normalisations as one over R·C channels: each channel is normalised independently."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[BatchNorm1d | BatchNorm2d]) -> None:
        super().__init__()
        first = layers[0]
        if first.momentum is None or not first.track_running_stats or not first.affine:
            raise NotStackableError("only a batch normalisation with a momentum, a scale and a shift can be stacked")
        self.momentum, self.eps = first.momentum, first.eps
        self.weight = stacked([layer.weight for layer in layers])
        self.bias = stacked([layer.bias for layer in layers])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(layer, name) for layer in layers]))

    def forward(self, images: Tensor) -> Tensor:
        return self.normalised(join(images))

    def normalised(self, values: Tensor) -> Tensor:
        """N×(R·C)×... values, all channels normalised."""
        measured = self.training and has_variance(values)
        if measured:
            self.num_batches_tracked += 1
        return F.batch_norm(
            values, self.running_mean.view(-1), self.running_var.view(-1),
            self.weight.flatten(), self.bias.flatten(), measured, self.momentum, self.eps,
        )  # fmt: skip


class StackedBatchNorm1d(StackedBatchNorm2d):
    """R batch normalisations of features, R×N×features."""

    def forward(self, values: Tensor) -> Tensor:
        together = self.normalised(values.transpose(0, 1).flatten(1))
        return together.unflatten(1, (len(values), -1)).transpose(0, 1)


class StackedPReLU(nn.Module):
    """R layers with a slope each: R×N×features, or N×(R·C)×H×W."""

    def __init__(self, layers: Sequence[nn.PReLU]) -> None:
        super().__init__()
        if layers[0].num_parameters != 1:
            raise NotStackableError("a PReLU with a slope for each channel cannot be stacked")
        self.weight = stacked([layer.weight for layer in layers])

    def forward(self, values: Tensor) -> Tensor:
        if values.dim() == 4:
            slopes = self.weight.expand(-1, values.shape[1] // len(self.weight)).flatten()[:, None, None]
        else:
            slopes = self.weight[:, None]
        return torch.where(values > 0, values, slopes * values)


class StackedMaxout(nn.Module):
    """R×N×(pieces·width) to R×N×width, or N×(R·pieces·C)×H×W to N×(R·C)×H×W."""

    def __init__(self, layers: Sequence[Maxout]) -> None:
        super().__init__()
        self.replicas, self.pieces = len(layers), layers[0].pieces

    def forward(self, values: Tensor) -> Tensor:
        if values.dim() == 4:
            return values.unflatten(1, (self.replicas, self.pieces, -1)).amax(2).flatten(1, 2)
        return values.unflatten(-1, (self.pieces, -1)).amax(-2)


class StackedConcatenation(nn.Module):
    """Images N×(R·C)×H×W to one in which the channels of each network lie together."""

    def __init__(self, layers: Sequence[Concatenation]) -> None:
        super().__init__()
        self.replicas = len(layers)

    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.cat([image.unflatten(1, (self.replicas, -1)) for image in images], 2).flatten(1, 2)


class StackedFlatten(nn.Module):
    """R×N×C×H×W or N×(R·C)×H×W to R×N×(C·H·W)."""

    def __init__(self, layers: Sequence[nn.Flatten]) -> None:
        super().__init__()
        self.replicas = len(layers)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() == 4:
            images = images.unflatten(1, (self.replicas, -1)).transpose(0, 1)
        return images.flatten(2)


STACKED: dict[type[nn.Module], Callable[[Sequence[Any]], nn.Module]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    BatchNorm2d: StackedBatchNorm2d,
    BatchNorm1d: StackedBatchNorm1d,
    nn.Flatten: StackedFlatten,
    nn.PReLU: StackedPReLU,
    Maxout: StackedMaxout,
    Concatenation: StackedConcatenation,
    Dropout: lambda layers: Dropout([layer.p for layer in layers], replicas=len(layers)),
}


def stacked(parameters: Sequence[Tensor]) -> nn.Parameter:
    joined = torch.stack([parameter.detach() for parameter in parameters])
    return nn.Parameter(joined, requires_grad=parameters[0].requires_grad)


def stacked_biases(biases: Sequence[Tensor | None]) -> nn.Parameter | None:
    """Of layers that all have a bias or all have none."""
    there = [bias for bias in biases if bias is not None]
    return stacked(there) if there else None


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that computes all of them: R×N×C×H×W images to R×N×classes logits.

    Its parameters and buffers have the names of a single network's, and a first dimension over the networks.

    Raises:
        NotStackableError: a layer has no stacked version.
    """
    first = networks[0]
    if type(first) in STACKED:
        return STACKED[type(first)](networks)
    if isinstance(first, ALIKE):
        return copy.deepcopy(first)
    children = dict(first.named_children())
    if not children or any(True for _ in first.parameters(recurse=False)) or any(True for _ in first.buffers(False)):
        raise NotStackableError(f"there is no stacked version of the layer {type(first).__name__}")
    result = copy.copy(first)  # a container: its own forward combines its layers
    result._modules = {name: stack([network.get_submodule(name) for network in networks]) for name in children}
    return result


def unstack(network: nn.Module, replica: int) -> dict[str, Tensor]:
    """The state_dict of one of the stacked networks, as views."""
    return {name: tensor[replica] for name, tensor in network.state_dict().items()}
