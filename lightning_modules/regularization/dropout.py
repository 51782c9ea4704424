"""Dropout for the price of a multiplication: masks are drawn for many steps at once, from random bytes.

torch's dropout draws a float for every value in every step: a quarter of the time of a small network on a CPU.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEPS = 16  # whose masks are drawn at once
LARGEST_DRAW = 2**22  # values per network in one draw


class Dropout(nn.Module):
    """In training, zeroes each value with probability p and scales the others so that the expectation stays the same,
    to the precision of the values.

    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.

    Args:
        p: one rate, or one per replica, rounded to a multiple of 1/256; a rate above 0 is at least 1/256.
        replicas: number of stacked networks; values then are replicas × batch × ... None: one network.
    """

    # Where processes divide a mini-batch: the start of this process's part, and the size of the whole mini-batch. Each
    # process draws the masks of the whole.
    part: tuple[int, int] | None = None
    threshold_of: Tensor

    def __init__(self, p: float | Sequence[float], replicas: int | None = None) -> None:
        super().__init__()
        rates = [p] if isinstance(p, (int, float)) else list(p)
        self.p, self.replicas = p, replicas
        self.thresholds = [min(255, max(1, round(256 * rate))) if rate else 0 for rate in rates]
        if replicas is not None:  # a buffer stays on the device: a copy in each draw would wait for the GPU
            self.register_buffer("threshold_of", torch.tensor(self.thresholds), persistent=False)
        self.begin_epoch([None] * (replicas or 1))

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def begin_epoch(self, generators: Sequence[torch.Generator | None]) -> None:
        """Sets the generators that masks are drawn from, one per network, and drops unused masks."""
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
        """Draws `masks` for the next steps, of mini-batches of `batch` such values: 0 for a dropped value, 1 / (1 - p)
        for a kept one."""
        shape = (batch, *values.shape[1 if self.replicas is None else 2 :])
        steps = max(1, min(STEPS, LARGEST_DRAW // math.prod(shape)))
        count = steps * math.prod(shape)
        bytes_of = [
            self.drawn(count, generator, threshold, values.device).view(steps, *shape)
            for generator, threshold in zip(self.generators, self.thresholds)
        ]
        # bfloat16 represents the integers up to 256 exactly.
        if self.replicas is None:
            kept = bytes_of[0].to(values.dtype)
            threshold: Tensor | int = self.thresholds[0]
        else:
            kept = torch.stack(bytes_of, 1).to(values.dtype)
            threshold = self.threshold_of.to(values.dtype).view(-1, *[1] * len(shape))
        self.masks = kept.ge_(threshold).mul_(256 / (256 - threshold))
        self.next = 0
        return self.masks

    def drawn(self, count: int, generator: torch.Generator | None, threshold: int, device: torch.device) -> Tensor:
        """`count` random bytes; zeros for a network that drops nothing here, whose other layers then draw what they
        draw where it trains alone."""
        if not threshold:
            return torch.zeros(count, dtype=torch.uint8, device=device)
        numbers = torch.empty(-(-count // 8), dtype=torch.int64, device=device)
        return numbers.random_(-(2**63), None, generator=generator).view(torch.uint8)[:count]
