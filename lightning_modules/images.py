"""Images in memory: one uint8 tensor on the device, batches by index; augmentation and normalising are batched."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

AUGMENTATIONS = {  # name: (shift, flip)
    "none": (False, False),
    "shift": (True, False),
    "flip": (False, True),
    "shift_flip": (True, True),
}


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 N×H×W×C to float32 N×C×H×W in channels_last memory, without a copy for the permutation.

    Args:
        mean, std: per channel, of intensities between 0 and 1. A channel that never changes becomes zero.
    """
    return images.float().sub_(255 * mean).div_((255 * std).clamp_min(1)).permute(0, 3, 1, 2)


class Images:
    """One split of a dataset, fed by index.

    Args:
        images: uint8, N×H×W×C.
        labels: int64, N.
        mean, std: per channel, of intensities between 0 and 1.
        augment: "shift" moves each image by up to an eighth of its sides, black coming in at the border;
            "flip" mirrors half of the images left to right; drawn anew for each image by `begin_epoch`.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: list[float], std: list[float],
        augment: str = "none", device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        self.mean = torch.tensor(mean, device=self.device)
        self.std = torch.tensor(std, device=self.device)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(self.device)
        self.shift, self.flip = AUGMENTATIONS[augment]
        height, width = images.shape[1:3]
        self.reach = (height // 8, width // 8) if self.shift else (0, 0)
        self.height, self.width = height, width
        if self.shift:
            rows, columns = self.reach
            images = np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
        elif not images.flags.writeable:
            images = np.array(images)  # a memory map: torch must not see memory that it could write to
        self.images = torch.from_numpy(images).to(self.device)
        # Every shifted version of every image, as a view: N × shifts down × shifts right × C × H × W.
        self.windows = self.images.unfold(1, height, 1).unfold(2, width, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def begin_epoch(self, generators: Sequence[torch.Generator | None] = (None,)) -> None:
        """Draws how each image is augmented in the epoch to come, with the generator of each replica."""

        size = (len(self),)
        place = {"device": self.device}
        if self.shift:
            self.down, self.right = (
                torch.stack([torch.randint(2 * reach + 1, size, generator=own, **place) for own in generators])
                for reach in self.reach
            )
        if self.flip:
            self.mirrored = torch.stack([torch.rand(size, generator=own, **place) < 0.5 for own in generators])

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised, augmented images N×C×H×W (float32) and labels N at `index`.

        Args:
            index: N positions, or replicas × N of them; then images and labels are replicas × N × ... too.
        """
        flat = index.reshape(-1)
        replica = (
            torch.arange(len(index), device=self.device).repeat_interleave(index.shape[1]) if index.dim() > 1 else 0
        )
        if self.shift:
            pixels = self.windows[flat, self.down[replica, flat], self.right[replica, flat]].permute(0, 2, 3, 1)
        else:
            pixels = self.images.index_select(0, flat)  # much faster than indexing, which goes value by value
        if self.flip:
            pixels = torch.where(self.mirrored[replica, flat][:, None, None, None], pixels.flip(2), pixels)
        images, labels = normalize(pixels, self.mean, self.std), self.labels[flat]
        return (images, labels) if index.dim() == 1 else (images.unflatten(0, index.shape), labels.view(index.shape))


class Blocks:
    """What Lightning sees as one batch: a block of mini-batches, as a list of index tensors.

    Lightning's cost per batch is that of a training step of a small network; a block shares it among its steps.

    Args:
        count: number of images.
        order: gives the order of the images anew for each pass: N positions, or replicas × N.
    """

    def __init__(self, count: int, batch_size: int, block: int, order) -> None:
        self.count, self.batch_size, self.block, self.order = count, batch_size, block, order

    @property
    def steps(self) -> int:
        """Mini-batches in a pass; the last one may be smaller."""
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        return -(-self.steps // self.block)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = self.order().split(self.batch_size, dim=-1)
        for start in range(0, len(batches), self.block):
            yield list(batches[start : start + self.block])
