"""The limit for CIFAR-10 on one GPU: airbench94 with Muon as a bare PyTorch script, with no framework around it.

Written after Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (arXiv:2404.00498), and the
description of his program airbench94_muon: the same arithmetic, in this project's own words. It shares no code with
`lightning_modules`, so that the accuracy of one is a check of the other. Weights are float32 and products bfloat16, as
in ours. What is timed: the whitening's filters, training, and the test images' logits over six views; not the upload.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Recipe:
    epochs: int = 8
    batch_size: int = 2000
    widths: tuple[int, ...] = (64, 256, 256)
    reach: int = 2  # pixels by which an image is moved
    smoothing: float = 0.2
    filter_rate: float = 0.24
    filter_momentum: float = 0.6
    head_rate: float = 0.67  # of gradients summed over the images of a batch, as the next one
    bias_rate: float = 0.053
    momentum: float = 0.85
    decay: float = 2e-6  # for each image of a batch
    whitening_until: float = 3 / 8  # share of the training in which the whitening's bias learns


class Norm(nn.BatchNorm2d):
    """Batch normalisation whose scale stays one, and whose running statistics adapt fast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution initialised to return its inputs."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.detach()[:inputs])
    return layer


def build(side: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    inputs, side = 24, side - 1
    for outputs in widths:
        layers += [convolution(inputs, outputs), nn.MaxPool2d(2), Norm(outputs), nn.GELU()]
        layers += [convolution(outputs, outputs), Norm(outputs), nn.GELU()]
        inputs, side = outputs, side // 2
    head = nn.Linear(inputs, 10, bias=False)
    head.weight.detach().div_(head.weight.detach().std())
    layers += [nn.MaxPool2d(side), nn.Flatten(), head]
    layers[0].weight.requires_grad_(False)
    return nn.Sequential(*layers)


@torch.no_grad()
def whiten(layer: nn.Conv2d, images: Tensor) -> None:
    """Sets the filters to the eigenvectors of the 2×2 patches' covariance, scaled to variance one, with both signs."""
    patches = images.float().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
    layer.weight.copy_(torch.cat((filters, -filters)))
    layer.bias.zero_()


def near_orthogonal(update: Tensor) -> Tensor:
    """Newton and Schulz's iteration, three times, in bfloat16."""
    matrix = update.flatten(1).bfloat16()
    tall = len(matrix) > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (2.0315 * gram @ gram - 4.7750 * gram) @ matrix
    return (matrix.T if tall else matrix).reshape(update.shape)


class Filters:
    """Muon: filters are scaled to one length, and take orthogonal steps."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float, orthogonal=near_orthogonal) -> None:
        self.parameters, self.momentum, self.orthogonal = parameters, momentum, orthogonal
        self.buffers = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, buffer in zip(self.parameters, self.buffers):
            buffer.mul_(self.momentum).add_(parameter.grad)
            update = self.orthogonal(parameter.grad.add(buffer, alpha=self.momentum))
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm()).add_(update, alpha=-rate)


def normalised(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """uint8 N×H×W×C to bfloat16 N×C×H×W in channels_last memory."""
    place = {"device": images.device}
    return ((images / 255 - torch.tensor(mean, **place)) / torch.tensor(std, **place)).bfloat16().permute(0, 3, 1, 2)


def epochs(images: Tensor, labels: Tensor, recipe: Recipe) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Yields each epoch's mini-batches: images shifted at random, borders reflected, mirrored in every other epoch."""
    count, height, width = len(images), *images.shape[2:]
    mirrored = torch.rand(count, device=images.device) < 0.5
    padded = F.pad(torch.where(mirrored[:, None, None, None], images.flip(3), images), [recipe.reach] * 4, "reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # N × C × shifts down × shifts right × H × W
    windows = windows.permute(0, 2, 3, 4, 5, 1)
    everyone = torch.arange(count, device=images.device)
    for epoch in range(recipe.epochs):
        down, right = torch.randint(2 * recipe.reach + 1, (2, count), device=images.device)
        moved = windows[everyone, down, right].permute(0, 3, 1, 2)
        order = torch.randperm(count, device=images.device).split(recipe.batch_size)
        moved = moved.flip(3) if epoch % 2 else moved
        yield ((moved[index], labels[index]) for index in order)


def six_views(network: nn.Module, images: Tensor) -> Tensor:
    """The logits over six views: the image, and shifted by a pixel to two sides, each also mirrored."""
    height, width = images.shape[2:]
    padded = F.pad(images, [1] * 4, "reflect")
    views = ((0.25, images), (0.125, padded[:, :, :height, :width]), (0.125, padded[:, :, 2:, 2:]))
    return sum(share * (network(view) + network(view.flip(3))) for share, view in views)


def run(
    training: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], mean: list[float], std: list[float],
    recipe: Recipe, seed: int, compiled: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Trains one network.

    Args:
        training, test: uint8 images N×H×W×C and int64 labels, on the device.
        compiled: the network and Muon's iteration go through torch.compile, whose time is part of the first run's.

    Returns:
        seconds and accuracy, 0 to 1.
    """
    device = training[0].device
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(False)
    network = build(training[0].shape[1], recipe.widths).to(device, memory_format=torch.channels_last)
    whitening, head = network[0], network[-1]
    steps = recipe.epochs * -(-len(training[0]) // recipe.batch_size)
    decay = recipe.decay * recipe.batch_size
    others = [
        {"params": [whitening.bias], "initial": recipe.bias_rate, "until": recipe.whitening_until},
        {"params": [m.bias for m in network if isinstance(m, Norm)], "initial": recipe.bias_rate, "until": 1.0},
        {"params": [head.weight], "initial": recipe.head_rate, "until": 1.0},
    ]
    for group in others:
        group |= {"lr": group["initial"], "weight_decay": decay / group["initial"]}
    sgd = torch.optim.SGD(others, momentum=recipe.momentum, nesterov=True, fused=True)
    weights = [layer.weight for layer in network[1:] if isinstance(layer, nn.Conv2d)]
    called = torch.compile(network) if compiled else network
    muon = Filters(weights, recipe.filter_momentum, torch.compile(near_orthogonal) if compiled else near_orthogonal)

    wait(device)
    start = time.perf_counter()
    images = normalised(training[0], mean, std)
    whiten(whitening, images[:5000])
    step = 0
    for batches in epochs(images, training[1], recipe):
        for batch, labels in batches:
            with torch.autocast(device.type, torch.bfloat16):
                logits = called(batch) / head.in_features
            F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing, reduction="sum").backward()
            done = step / steps
            for group in sgd.param_groups:
                group["lr"] = group["initial"] * max(0.0, 1 - done / group["until"])
            if done >= recipe.whitening_until:
                whitening.bias.requires_grad_(False)
                whitening.bias.grad = None
            sgd.step()
            muon.step(recipe.filter_rate * (1 - done))
            for parameter in network.parameters():
                parameter.grad = None
            step += 1
    network.eval()
    hits = torch.zeros((), device=device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for batch, labels in zip(normalised(test[0], mean, std).split(2000), test[1].split(2000)):
            hits += (six_views(called, batch).argmax(1) == labels).sum()
    accuracy = hits.item() / len(test[1])
    wait(device)
    return {"seconds": time.perf_counter() - start, "accuracy": accuracy}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
