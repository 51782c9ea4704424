"""The LightningModule that trains several networks of one shape as a single computation."""

import torch
from torch import Tensor

from lightning_modules import losses, names, networks, optimizers
from lightning_modules.classifier import EVALUATION_BATCH, Classifier, epoch_seed
from lightning_modules.images import Blocks
from lightning_modules.networks.stacking import stack, unstack
from lightning_modules.regularization import building as regularization

# The keys in which recipes of networks that train together may differ.
FREE = (
    "dropout", "label_smoothing", "optimizer.lr", "optimizer.weight_decay",
    *(f"regularization.{key}" for key in names.REGULARIZATION if key not in ("cutout", "decay")),
)  # fmt: skip


class Together(Classifier):
    """R networks, each of which learns what a `Classifier` with its recipe and seed would, up to rounding.

    Each has its own initial weights, batch order, augmentation, dropout masks, learning rate, weight decay and
    regularization, and learns independently of the others.

    Args:
        recipes: one per network; they may differ in the keys that `FREE` names.
        seeds: one per network.
        shape, classes, epochs, batch_size: as in `Classifier`.

    Raises:
        NotStackableError: a layer has no stacked version.
        ValueError: the recipes differ in another key.
    """

    def __init__(
        self, recipes: list[dict], shape: list[int], classes: int, seeds: list[int], epochs: int, batch_size: int
    ) -> None:
        if len({repr(shared(recipe)) for recipe in recipes}) > 1:
            raise ValueError(f"networks that train together may differ in {', '.join(FREE)} alone")
        super().__init__(recipes[0], shape, classes, seeds[0], epochs, batch_size)
        alone = []
        for recipe, seed in zip(recipes, seeds):
            torch.manual_seed(seed)
            alone.append(networks.build(recipe, shape, classes))
        self.network = stack(alone)
        self.seeds, self.generators = seeds, [None] * len(seeds)
        losses.build(self.given_loss, max(recipe["label_smoothing"] for recipe in recipes))
        self.regularization = regularization.build(recipes, stacked=True)
        self.smoothing = torch.tensor([[float(recipe["label_smoothing"])] for recipe in recipes])

    def forward(self, images: Tensor) -> Tensor:
        """Logits, R×N×classes, of normalised images, R×N×C×H×W."""
        return self.network(images)

    def state(self, replica: int = 0) -> dict[str, Tensor]:
        return unstack(self.network, replica)

    def order(self) -> Tensor:
        count = len(self.training_images)
        return torch.stack(
            [torch.randperm(count, generator=generator, device=self.device) for generator in self.generators]
        )

    def build_optimizer(self) -> torch.optim.Optimizer:
        decay = regularization.completed(self.hparams["recipe"])["decay"]
        groups = networks.groups(self.network, decay, stacked=True)
        return optimizers.build_stacked([recipe["optimizer"] for recipe in self.hparams["recipes"]], groups)

    def reseed(self, epoch: int) -> None:
        # New generators each time: one on a GPU also counts what it has drawn, and reseeding would have to undo that.
        self.generators = [torch.Generator(self.device).manual_seed(epoch_seed(seed, epoch)) for seed in self.seeds]

    def val_dataloader(self) -> Blocks:
        (first, end), networks = self.validated(), len(self.seeds)
        batch_size = max(100, 4 * EVALUATION_BATCH // networks)
        return Blocks(
            end - first, batch_size, 1, lambda: torch.arange(first, end, device=self.device).expand(networks, -1)
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss_of_each(logits, labels, self.smoothing).mean(-1)


def shared(recipe: dict) -> dict:
    """The part of a recipe that networks that train together share: all but `replicas` and what `FREE` names."""
    whole = recipe | {"regularization": regularization.completed(recipe)}
    sections = {
        name: {key: value for key, value in whole[name].items() if f"{name}.{key}" not in FREE}
        for name in ("optimizer", "regularization")
    }
    return {key: value for key, value in whole.items() if key not in (*FREE, "replicas")} | sections
