"""Builds what a recipe's `regularization` asks for."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_modules import names
from lightning_modules.regularization.clipping import Clipping
from lightning_modules.regularization.max_norm import MaxNorm
from lightning_modules.regularization.mixup import Mixup
from lightning_modules.regularization.parameters import weights
from lightning_modules.regularization.penalties import Penalties


class Regularization(nn.Module):
    """What is done to images, gradients and weights in a training step; each part is None where no network needs it."""

    def __init__(
        self, mixup: Mixup | None, penalties: Penalties | None, clipping: Clipping | None, max_norm: MaxNorm | None,
        *, stacked: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mixup, self.penalties, self.clipping, self.max_norm = mixup, penalties, clipping, max_norm
        self.stacked = stacked

    def before_step(self, network: nn.Module) -> None:
        """Changes the whole mini-batch's gradients: the penalties' are added, then they are clipped."""
        if self.penalties is not None:
            self.penalties(weights(network, stacked=self.stacked))
        if self.clipping is not None:
            self.clipping(network.parameters())

    def after_step(self, network: nn.Module) -> None:
        """Changes the weights."""
        if self.max_norm is not None:
            self.max_norm(weights(network, stacked=self.stacked))


def completed(recipe: dict) -> dict[str, Any]:
    """A recipe's `regularization` with all its keys; recipes may lack it."""
    return names.REGULARIZATION | recipe.get("regularization", {})


def build(recipes: Sequence[dict], *, stacked: bool) -> Regularization:
    """Builds what the recipes of one network, or of stacked ones, ask for. They may differ in all but cutout and decay,
    which are in other hands: those of `images.Images` and `networks.groups`."""
    given = {key: [completed(recipe)[key] for recipe in recipes] for key in names.REGULARIZATION}

    def asked(*keys: str) -> bool:
        return any(value for key in keys for value in given[key])

    return Regularization(
        Mixup(given["mixup"]) if asked("mixup") else None,
        Penalties(given["l1"], given["l2"], stacked=stacked) if asked("l1", "l2") else None,
        Clipping(given["clip_norm"], given["clip_value"], stacked=stacked)
        if asked("clip_norm", "clip_value")
        else None,
        MaxNorm(given["max_norm"], stacked=stacked) if asked("max_norm") else None,
        stacked=stacked,
    )
