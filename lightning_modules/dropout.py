"""Dropout that costs a multiplication: its masks are drawn for many steps at once, out of random bytes.

torch's own draws one float for every value in every step, which is a quarter of the time of a small network on a CPU.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Steps whose masks are drawn at once, and the most values of one network that one such draw may be for.
STEPS = 16
LARGEST_DRAW = 2**22


class Dropout(nn.Module):
    """Zeroes values with probability p and scales the others, so that the expectation stays, to the precision of the
    values; only in training.

    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.

    Args:
        p: in steps of 1/256, to the nearest; a rate above 0 is at least 1/256. Of one network, or one per replica.
        replicas: of networks that compute together, whose values come as replicas × batch × ...
    """

    # Of a mini-batch that several processes divide: its first value that is this process's, and how many there are in
    # all. Each draws the masks of all.
    part: tuple[int, int] | None = None
    threshold_of: Tensor

    def __init__(self, p: float | Sequence[float], replicas: int | None = None) -> None:
        super().__init__()
        rates = [p] if isinstance(p, (int, float)) else list(p)
        self.p, self.replicas = p, replicas
        self.thresholds = [min(255, max(1, round(256 * rate))) if rate else 0 for rate in rates]
        if replicas is not None:  # on the device at all times: to copy them there would wait for a GPU
            self.register_buffer("threshold_of", torch.tensor(self.thresholds), persistent=False)
        self.begin_epoch([None] * (replicas or 1))

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def begin_epoch(self, generators: Sequence[torch.Generator | None]) -> None:
        """Draws from these from now on, one for each network, and drops the masks that are left over."""
        self.generators = generators
        self.masks: Tensor | None = None
        self.next = 0

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not any(self.thresholds):
            return values
        batch = 0 if self.replicas is None else 1
        first, count = self.part or (0, values.shape[batch])
        masks = self.masks
        if masks is None or self.next == len(masks) or masks.shape[batch + 1] < count:
            masks = self.draw(values, count)
        mask = masks[self.next]
        self.next += 1
        if mask.shape != values.shape:  # the last mini-batch of an epoch, or a part of one
            mask = mask.narrow(batch, first, values.shape[batch])
        return values * mask

    def draw(self, values: Tensor, batch: int) -> Tensor:
        """Masks for mini-batches of `batch` values like these, for the steps to come: 0 where a value is dropped, else
        1 / (1 - p)."""
        shape = (batch, *values.shape[1 if self.replicas is None else 2 :])
        steps = max(1, min(STEPS, LARGEST_DRAW // math.prod(shape)))
        count = steps * math.prod(shape)
        bytes_of = [
            torch.empty(-(-count // 8), dtype=torch.int64, device=values.device)
            .random_(-(2**63), None, generator=generator)
            .view(torch.uint8)[:count]
            .view(steps, *shape)
            for generator in self.generators
        ]
        # uint8 and bfloat16 agree on the integers up to 256.
        if self.replicas is None:
            kept = bytes_of[0].to(values.dtype)
            threshold: Tensor | int = self.thresholds[0]
        else:
            kept = torch.stack(bytes_of, 1).to(values.dtype)
            threshold = self.threshold_of.to(values.dtype).view(-1, *[1] * len(shape))
        self.masks = kept.ge_(threshold).mul_(256 / (256 - threshold))
        self.next = 0
        return self.masks
