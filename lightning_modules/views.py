"""Test-time views: a network's logits are the weighted mean over several views of an image.

Source: Jordan, arXiv:2404.00498, 2024 (the six views and their weights); mirrored views: Krizhevsky et al., 2012.
"""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F


def none(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    yield 1.0, images


def mirror(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    """The image and its mirror image."""
    yield 0.5, images
    yield 0.5, images.flip(3)


def mirror_shift(images: Tensor) -> Iterator[tuple[float, Tensor]]:
    """The image and its mirror image, and both shifted by one pixel to the lower right and to the upper left, each with
    half the weight."""
    height, width = images.shape[2:]
    rows, columns = min(1, height - 1), min(1, width - 1)  # a side of one pixel has nothing to reflect
    padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
    moved = (
        padded[:, :, :height, :width],
        padded[:, :, 2 * rows : 2 * rows + height, 2 * columns : 2 * columns + width],
    )
    for share, view in ((0.5, images), (0.25, moved[0]), (0.25, moved[1])):
        for weight, one in mirror(view):
            yield share * weight, one


VIEWS = {"none": none, "mirror": mirror, "mirror_shift": mirror_shift}


def logits(network: Callable[[Tensor], Tensor], images: Tensor, name: str) -> Tensor:
    """The network's logits, N×classes: the weighted mean over the views `name` of normalised images, N×C×H×W."""
    first, *others = (weight * network(view) for weight, view in VIEWS[name](images))
    return sum(others, first)
