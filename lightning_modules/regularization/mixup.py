"""Mixtures of two images and of their losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.images import Images


class Mixup:
    """Mixes each image x with another one y to λx + (1 - λ)y, for which a loss L counts λL(x's label) + (1 - λ)L(y's).

    For the cross-entropy this is the loss of the mixed target, as published. y is drawn from all training images and λ
    from Beta(alpha, alpha), anew for each image in each epoch (the published program draws one λ per mini-batch, and y
    within it): so neither depends on how a mini-batch is divided among processes, or on how large it is. Both images
    are augmented before.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, mixup: Beyond Empirical Risk Minimization, 2018.

    Args:
        alpha: one per network, 0 or more; with 0 its images are not mixed, and nothing is drawn for it.
    """

    partner: Tensor  # networks × images
    share: Tensor  # networks × images

    def __init__(self, alpha: Sequence[float]) -> None:
        self.alpha = alpha

    def begin_epoch(self, images: Images, generators: Sequence[torch.Generator | None]) -> None:
        """Draws the partner and the share of each image for an epoch.

        Args:
            generators: one per network; None is torch's global one.
        """
        count, device = len(images), images.device
        partners, shares = [], []
        for alpha, generator in zip(self.alpha, generators):
            if alpha:
                partners.append(torch.randint(count, (count,), generator=generator, device=device))
                shares.append(beta(alpha, count, generator, device))
            else:
                partners.append(torch.arange(count, device=device))
                shares.append(torch.ones(count, device=device))
        self.partner, self.share = torch.stack(partners), torch.stack(shares)

    def batch(self, images: Images, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mixed images at `index`, their labels, those of their partners, and the shares of the former.

        Args:
            index: N positions, or R×N for R networks, as for `Images.batch`.
        """
        rows = index.view(len(self.alpha), -1)
        partner, share = (drawn.gather(1, rows).view_as(index) for drawn in (self.partner, self.share))
        pixels, labels = images.batch(index)
        others, other_labels = images.batch(partner)
        mixed = torch.lerp(others, pixels, share[..., None, None, None])
        return mixed, labels, other_labels, share


def beta(alpha: float, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draws from Beta(alpha, alpha), float32.

    As X / (X + Y) of two gamma variables, by their logarithms: with a small alpha both are often too small for a float.
    A gamma variable is one of alpha + 1 times U^(1 / alpha) (Marsaglia and Tsang, A Simple Method for Generating Gamma
    Variables, 2000).
    """
    shape = torch.full((2, count), alpha + 1, dtype=torch.float64, device=device)
    uniform = torch.rand((2, count), generator=generator, dtype=torch.float64, device=device)
    # 1 - U is never 0, as U may be.
    logs = torch._standard_gamma(shape, generator=generator).log() + torch.log1p(-uniform) / alpha
    return torch.sigmoid(logs[0] - logs[1]).float()
