"""The LightningModule that trains several networks of one shape as a single computation."""

import torch
from torch import Tensor

from lightning_modules import losses, names, networks, optimizers, regularization, views
from lightning_modules.classifier import EVALUATION_BATCH, Classifier, epoch_seed
from lightning_modules.images import Blocks, Images
from lightning_modules.networks.stacking import NotStackableError, stack, unstack

# The keys in which recipes of networks that train together may differ.
FREE = (
    "dropout", "label_smoothing", "optimizer",
    *(f"regularization.{key}" for key in names.REGULARIZATION if key not in ("cutout", "decay")),
)  # fmt: skip


class Together(Classifier):
    """R networks, each of which learns what a `Classifier` with its recipe and seed would, up to rounding.

    Each has its own initial weights, batch order, augmentation, dropout masks, optimizer and regularization, and learns
    independently of the others.

    Args:
        recipes: one per network; they may differ in the keys that `FREE` names.
        seeds: one per network.
        shape, classes, epochs, batch_size, about: as in `Classifier`.

    Raises:
        NotStackableError: a layer has no stacked version, or the schedule goes by how well each network does.
        ValueError: the recipes differ in another key.
    """

    def __init__(
        self, recipes: list[dict], shape: list[int], classes: int, seeds: list[int], epochs: int, batch_size: int,
        about: dict | None = None,
    ) -> None:  # fmt: skip
        if len({repr(shared(recipe)) for recipe in recipes}) > 1:
            raise ValueError(f"networks that train together may differ in {', '.join(FREE)} alone")
        refuse_unstackable(recipes[0])
        super().__init__(recipes[0], shape, classes, seeds[0], epochs, batch_size, about)
        alone = []
        for recipe, seed in zip(recipes, seeds):
            torch.manual_seed(seed)
            alone.append(self.task.network(recipe, shape))
        self.network = stack(alone)
        self.seeds, self.generators = seeds, [None] * len(seeds)
        # Refuses what it cannot do for any of them.
        largest = max(recipe["label_smoothing"] for recipe in recipes)
        self.task.loss(self.given_loss, largest)
        self.regularization = regularization.build(recipes, stacked=True)
        self.smoothing = torch.tensor([[float(recipe["label_smoothing"])] for recipe in recipes])
        self.smoothed = largest > 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits, R×N×classes, of normalised images, R×N×C×H×W."""
        return self.network(images)

    def state(self, replica: int = 0) -> dict[str, Tensor]:
        return unstack(self.network, replica)

    def draw_order(self) -> Tensor:
        count = len(self.training_images)
        return torch.stack(
            [torch.randperm(count, generator=generator, device=self.device) for generator in self.generators]
        )

    def build_optimizer(self) -> torch.optim.Optimizer:
        decay = regularization.completed(self.hparams["recipe"])["decay"]
        groups = networks.groups(self.network, decay, stacked=True)
        return optimizers.StackedOptimizer([recipe["optimizer"] for recipe in self.hparams["recipes"]], groups)

    def last_rates(self) -> list[float]:
        optimizer, scheduler = self.built()
        assert isinstance(optimizer, optimizers.StackedOptimizer)
        [factor] = optimizers.last_rates(scheduler)
        return [factor * rate for rate in optimizer.rates]

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
        return self.loss_of_each(logits, labels, self.smoothing if self.smoothed else 0.0).mean(-1)


def refuse_unstackable(recipe: dict) -> None:
    """Raises NotStackableError where networks of the recipe could not share one optimizer and one schedule."""
    if optimizers.goes_by_validation(recipe["schedule"]):
        raise NotStackableError("a learning rate that goes by how well each network does cannot be shared by a stack")


def shared(recipe: dict) -> dict:
    """The part of a recipe that networks that train together share: all but `replicas` and what `FREE` names."""
    whole = recipe | {"regularization": regularization.completed(recipe)}
    sections = {
        "regularization": {
            key: value for key, value in whole["regularization"].items() if f"regularization.{key}" not in FREE
        },
        "optimizer": {"full_batch": recipe["optimizer"]["name"] in optimizers.FULL_BATCH},
    }
    return {key: value for key, value in whole.items() if key not in (*FREE, "replicas")} | sections


@torch.inference_mode()
def log_probabilities(
    recipes: list[dict], states: list[dict[str, Tensor]], shape: list[int], classes: int, images: Images
) -> Tensor:
    """What trained networks of one shape say of the same images: networks × images × classes, on the CPU.

    Args:
        recipes, states: one per network, its state_dict.
        shape: height, width and channels of an image.
    """
    alone = []
    for recipe, state in zip(recipes, states):
        network = networks.build(recipe, shape, classes)
        network.load_state_dict(state)
        alone.append(network.to(images.device).eval())
    count = len(alone)
    whole = stack(alone).eval() if count > 1 else alone[0]  # new layers: they do not have the mode of those stacked
    loss, seen = (recipes[0].get(key, names.DEFAULTS[key]) for key in ("loss", "test_time_views"))

    def say(view: Tensor) -> Tensor:
        return whole(view.expand(count, *view.shape)) if count > 1 else whole(view)[None]

    found = []
    for index in torch.arange(len(images), device=images.device).split(max(100, 4 * EVALUATION_BATCH // count)):
        batch, _ = images.batch(index)
        logits = views.logits(say, batch, seen)
        found.append(losses.log_probabilities(loss, logits.float()).cpu())
    return torch.cat(found, 1)
