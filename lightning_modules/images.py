"""Images in memory: one uint8 tensor on the device, batches by index, augmentation and normalisation by batch.

On a CPU the images are not copied. They usually are a memory-mapped file, whose pages all trainings share; only the
batch is a copy.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for each image in each epoch.

    Args:
        reach: largest shift of an image, as a share of its height and width.
        border: what fills the border after a shift: "black", or the image "reflected".
        flip: "never"; "random", with probability one half; or "alternating", at random in the first epoch and then in
            every other one, so that two epochs show both sides (Jordan, arXiv:2404.00498, 2024).
        cutout: height and width of the rectangle that becomes the mean colour at a random place, as a share of the
            image's (DeVries and Taylor, 2017).
    """

    reach: float = 0.0
    border: str = "black"
    flip: str = "never"
    cutout: float = 0.0


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(reach=1 / 8),
    "flip": Augmentation(flip="random"),
    "shift_flip": Augmentation(reach=1 / 8, flip="random"),
    "altflip": Augmentation(flip="alternating"),
    "nudge_altflip": Augmentation(reach=1 / 16, border="reflected", flip="alternating"),  # airbench94
    "shift_altflip": Augmentation(reach=1 / 8, border="reflected", flip="alternating"),
    "shift_altflip_cutout": Augmentation(  # airbench96
        reach=1 / 8, border="reflected", flip="alternating", cutout=3 / 8
    ),
}


READY = 2**21  # values of a split


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 N×H×W×C to float32 N×C×H×W in channels_last memory, without a copy for the permutation.

    Args:
        images: uint8, or float32 where each channel is a measurement with a unit of its own.
        mean, std: per channel, of intensities between 0 and 1; of float32 the values' own. A constant channel becomes
            zero.
    """
    if images.dtype != torch.uint8:
        return ((images - mean) / std.where(std > 0, 1.0)).permute(0, 3, 1, 2)
    return images.float().sub_(255 * mean).div_((255 * std).clamp_min(1)).permute(0, 3, 1, 2)


class Images:
    """One split of a dataset, whose batches are made by index.

    Args:
        images: uint8 or float32, M×H×W×C. On a CPU they are not copied; they are never written to.
        labels: M×...; int64 where they are classes.
        mean, std: per channel, see `normalize`.
        augment: a key of AUGMENTATIONS; drawn for each image in each epoch, see `begin_epoch`.
        rows: int64, the indices of the N images of this split; None for all.
        cutout: replaces the augmentation's own; 0 leaves that.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: list[float], std: list[float],
        augment: str = "none", device: torch.device | str = "cpu", rows: np.ndarray | None = None,
        cutout: float = 0.0,
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        self.mean = torch.tensor(mean, device=self.device)
        self.std = torch.tensor(std, device=self.device)
        if rows is not None:
            labels = labels[rows]
            if self.device.type != "cpu":  # copy no more than the split to the GPU
                images, rows = images[rows], None
        self.rows = None if rows is None else torch.from_numpy(rows)
        self.labels = torch.tensor(labels, device=self.device)
        self.augmentation = AUGMENTATIONS[augment]
        if cutout:
            self.augmentation = replace(self.augmentation, cutout=cutout)
        height, width = images.shape[1:3]
        self.reach = tuple(int(side * self.augmentation.reach) for side in (height, width))
        self.shift = self.augmentation.reach > 0
        self.square = tuple(round(side * self.augmentation.cutout) for side in (height, width))
        self.height, self.width = height, width
        if self.augmentation.border == "reflected":
            self.border = [
                torch.from_numpy(np.pad(np.arange(side), reach, "reflect")).to(self.device)
                for side, reach in zip((height, width), self.reach)
            ]
        with warnings.catch_warnings():
            # torch does not know read-only memory. Nothing here writes to it.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images = torch.from_numpy(images).to(self.device)
        # Normalised once, N×H×W×C, where that is small and nothing changes from epoch to epoch: the same numbers as
        # batch by batch. Not on a GPU, where it would have to wait for the copy.
        self.ready: Tensor | None = None
        values = len(self) * math.prod(images.shape[1:])
        if self.device.type == "cpu" and self.augmentation == Augmentation() and values <= READY:
            every = normalize(self.taken(torch.arange(len(self))), self.mean, self.std)
            self.ready = every.permute(0, 2, 3, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def begin_epoch(
        self, epoch: int, seeds: Sequence[int] = (0,), generators: Sequence[torch.Generator | None] = (None,)
    ) -> None:
        """Draws the augmentation of each image for an epoch, for one network or several.

        Args:
            epoch: from 0.
            seeds: one per network; an alternating flip draws its first epoch from it alone.
            generators: one per network, which draw everything else; None is torch's global one.
        """
        size = (len(self),)

        def draw(count: int) -> Tensor:
            return torch.stack([torch.randint(count, size, generator=own, device=self.device) for own in generators])

        if self.shift:
            self.down, self.right = (draw(2 * reach + 1) for reach in self.reach)
        if self.augmentation.flip == "random":
            self.mirrored = draw(2).bool()
        elif self.augmentation.flip == "alternating":
            first = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.5 for seed in seeds]
            self.mirrored = (torch.stack(first) ^ bool(epoch % 2)).to(self.device)
        if self.augmentation.cutout:
            self.top, self.left = (
                draw(side - length + 1) for side, length in zip((self.height, self.width), self.square)
            )

    def first(self, count: int) -> Tensor:
        """The first images, normalised and not augmented: N×C×H×W."""
        return normalize(self.taken(torch.arange(min(count, len(self)), device=self.device)), self.mean, self.std)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised, augmented images N×C×H×W (float32) and labels N×... at `index`.

        Args:
            index: N positions, or R×N for R networks; then images and labels are R×N×... too.
        """
        flat = index.reshape(-1)
        if self.ready is not None:
            images, labels = self.ready.index_select(0, flat).permute(0, 3, 1, 2), self.labels[flat]
            return self.shaped(images, labels, index)
        own: tuple[int | Tensor, Tensor] = (0, flat)
        if index.dim() > 1:
            own = (torch.arange(len(index), device=self.device).repeat_interleave(index.shape[1]), flat)
        pixels = self.taken(flat)
        if self.shift:
            pixels = self.moved(pixels, self.down[own], self.right[own])
        if self.augmentation.flip != "never":
            pixels = torch.where(self.mirrored[own][:, None, None, None], pixels.flip(2), pixels)
        images, labels = normalize(pixels, self.mean, self.std), self.labels[flat]
        if self.augmentation.cutout:
            images.masked_fill_(self.squares(own), 0.0)  # in place, which keeps the channels_last memory format
        return self.shaped(images, labels, index)

    @staticmethod
    def shaped(images: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """A batch in the shape of its index."""
        return (
            (images, labels)
            if index.dim() == 1
            else (images.unflatten(0, index.shape), labels.unflatten(0, index.shape))
        )

    def taken(self, index: Tensor) -> Tensor:
        """The images at `index`, unchanged: N×H×W×C."""
        # Much faster than indexing with [], which copies value by value.
        return self.images.index_select(0, index if self.rows is None else self.rows[index])

    def moved(self, pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """The images, N×H×W×C, each shifted by its own `down` and `right` (pixels from the farthest up and left)."""
        if self.augmentation.border == "reflected":
            pixels = pixels.index_select(1, self.border[0]).index_select(2, self.border[1])
        else:
            rows, columns = self.reach
            pixels = F.pad(pixels, (0, 0, columns, columns, rows, rows))
        # Every moved version of every image, as a view: N × moves down × moves right × C × H × W.
        windows = pixels.unfold(1, self.height, 1).unfold(2, self.width, 1)
        number = torch.arange(len(pixels), device=self.device)
        return windows[number, down, right].permute(0, 2, 3, 1)

    def squares(self, own: tuple) -> Tensor:
        """The mask of the rectangle that is cut out of each image: bool, N×1×H×W, true inside."""
        inside = []
        for side, length, start in zip((self.height, self.width), self.square, (self.top, self.left)):
            offset = torch.arange(side, device=self.device) - start[own][:, None]
            inside.append((offset >= 0) & (offset < length))
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


class Blocks:
    """Blocks of mini-batches. Lightning takes a block, a list of index tensors, for one batch.

    Lightning's overhead per batch is as long as a training step of a small network: a block shares it among its steps.

    Args:
        count: number of images.
        block: mini-batches per block.
        order: called at each pass; returns the order of the images, N positions or R×N for R networks.
    """

    def __init__(self, count: int, batch_size: int, block: int, order: Callable[[], Tensor]) -> None:
        self.count, self.batch_size, self.block, self.order = count, batch_size, block, order

    @property
    def steps(self) -> int:
        """Mini-batches per pass; the last one may be smaller."""
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        return -(-self.steps // self.block)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = self.order().split(self.batch_size, dim=-1)
        for start in range(0, len(batches), self.block):
            yield list(batches[start : start + self.block])
