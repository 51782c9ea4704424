"""The LightningModule that trains one network on images in memory."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import initializers, names, networks, optimizers, regularization, tasks
from lightning_modules.errors import DivergedError
from lightning_modules.images import Blocks, Images
from lightning_modules.lightning import pl
from lightning_modules.regularization.dropout import Dropout

if TYPE_CHECKING:
    from lightning_modules.distributed import ProcessGroup

BLOCK = 50  # mini-batches
EVALUATION_BATCH = 1000  # images in a batch of the validation pass


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of one epoch's random numbers. Epochs count from 0."""
    return seed * 1_000_003 + epoch


class Classifier(pl.LightningModule):
    """Trains one network with the loss of its recipe.

    Args:
        recipe: a member of params.yaml, see `networks.build`, `optimizers.build` and `losses.build`; also
            label_smoothing, schedule and regularization.
        shape: height, width and channels of an image.
        classes: number of classes.
        seed: of initial weights, batch order, dropout and augmentation.
        epochs, batch_size: as planned; the learning-rate schedule spans all of these epochs.
        about: what `tasks.of` needs of the dataset's card; None: classification.

    Constructor arguments are plain JSON types, so a checkpoint loads by itself.

    Attributes:
        numbers: the last epoch's training_loss, and the task's scores such as validation_nll and validation_accuracy,
            one dict per network.
        finished: indices of the networks that early stopping has ended, while others go on.
        diverged: indices of those whose loss became NaN or infinite, where that is noted, not raised.
    """

    # Given by `attach`.
    training_images: Images
    validation_images: Images
    smoothing: Tensor
    drawn_order: Tensor  # of the training images in this epoch

    def __init__(
        self, recipe: dict, shape: list[int], classes: int, seed: int, epochs: int, batch_size: int,
        about: dict | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # one block is many optimizer steps
        self.task = tasks.of(about or {"class_names": [""] * classes})
        torch.manual_seed(seed)
        self.network = self.task.network(recipe, shape).to(memory_format=torch.channels_last)
        self.group: ProcessGroup | None = None
        self.numbers: list[dict[str, float]] = []
        self.finished: set[int] = set()
        self.diverged: set[int] | None = None
        self.given_loss = names.completed(recipe.get("loss", names.DEFAULTS["loss"]), names.LOSSES)
        self.loss_of_each = self.task.loss(self.given_loss, recipe["label_smoothing"])
        self.regularization = regularization.build([recipe], stacked=False)
        self.register_buffer("smoothing", torch.tensor(float(recipe["label_smoothing"])), persistent=False)
        # One per network; None is torch's global generator.
        self.seeds: list[int] = [seed]
        self.generators: list[torch.Generator | None] = [None]

    def attach(self, training: Images, validation: Images, group: "ProcessGroup | None" = None) -> "Classifier":
        """Sets both splits and the process group, and returns the module. A checkpoint contains neither."""
        self.training_images, self.validation_images, self.group = training, validation, group
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N×classes or as the task has them, of normalised images, N×C×H×W."""
        return self.network(images)

    def pretrain(self) -> None:
        """Lets an initializer that learns from training images do so. For a training from its beginning alone: a
        checkpoint has what came of it."""
        for number, seed in enumerate(self.seeds):
            # The epoch before the first has numbers of its own too.
            given, drawn = self.hparams["recipe"]["initializer"], epoch_seed(seed, -1)
            initializers.pretrain(self.state(number), given, self.training_images, drawn)

    def state(self, replica: int = 0) -> dict[str, Tensor]:
        """The state_dict of one network, for a network that `networks.build` made of its recipe."""
        return self.network.state_dict()

    def train_dataloader(self) -> Blocks:
        count = len(self.training_images)
        whole = self.hparams["recipe"]["optimizer"]["name"] in optimizers.FULL_BATCH
        return Blocks(count, count if whole else self.hparams["batch_size"], BLOCK, lambda: self.drawn_order)

    def draw_order(self) -> Tensor:
        """A random order of the training images: N positions, or R×N for R networks."""
        return torch.randperm(len(self.training_images), device=self.device)

    def val_dataloader(self) -> Blocks:
        first, end = self.validated()
        return Blocks(end - first, EVALUATION_BATCH, 1, lambda: torch.arange(first, end, device=self.device))

    def validated(self) -> tuple[int, int]:
        """The range of validation images that this process scores: its start, and its end (exclusive)."""
        count = len(self.validation_images)
        return self.group.part(count) if self.group else (0, count)

    def configure_optimizers(self) -> "pl.utilities.types.OptimizerLRSchedulerConfig":
        recipe = self.hparams["recipe"]
        optimizer = self.build_optimizer()
        steps = self.hparams["epochs"] * self.train_dataloader().steps
        return {"optimizer": optimizer, "lr_scheduler": optimizers.schedule(recipe["schedule"], optimizer, steps)}

    def build_optimizer(self) -> torch.optim.Optimizer:
        decay = regularization.completed(self.hparams["recipe"])["decay"]
        return optimizers.build(self.hparams["recipe"]["optimizer"], networks.groups(self.network, decay))

    def built(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """What `configure_optimizers` gave Lightning, which would take several."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        return optimizer, scheduler

    def last_rates(self) -> list[float]:
        """The learning rate of the last step, one per network: that of its first group of parameters."""
        return optimizers.last_rates(self.built()[1])[:1]

    # An epoch's random numbers depend on the seed and the epoch alone, so that an interrupted training resumes to the
    # same bits. The order of the images is drawn first: so it is the same whatever else is drawn, such as augmentation.
    def on_train_start(self) -> None:
        if self.group:
            self.group.copy_first(self.state_dict().values())
        self.reseed(self.current_epoch)
        self.drawn_order = self.draw_order()

    def on_train_epoch_end(self) -> None:
        self.reseed(self.current_epoch + 1)
        self.drawn_order = self.draw_order()

    def reseed(self, epoch: int) -> None:
        torch.manual_seed(epoch_seed(self.hparams["seed"], epoch))

    def on_train_epoch_start(self) -> None:
        self.training_images.begin_epoch(self.current_epoch, self.seeds, self.generators)
        if self.regularization.mixup is not None:
            self.regularization.mixup.begin_epoch(self.training_images, self.generators)
        optimizers.freeze_ended(self.built()[0])
        for layer in self.network.modules():
            if isinstance(layer, Dropout):
                layer.begin_epoch(self.generators)
        # Running sums stay on the device: to read a loss in every step would mean to wait for the device.
        self.loss_sum = torch.zeros(len(self.generators), device=self.device)

    def training_step(self, block: list[Tensor], block_index: int) -> None:
        optimizer, scheduler = self.built()
        for index in block:
            optimizer.zero_grad()
            for part, share in self.parts(index):
                if self.group:
                    self.learn_part(part, share, self.group)
                else:
                    self.learn(part, share)
            if self.group:
                self.group.sum_gradients(self.network)
            self.regularization.before_step(self.network)
            optimizer.step()
            self.regularization.after_step(self.network)
            scheduler.step()
            # Autocast keeps cast weights until its outermost region ends, and that is the whole block.
            torch.clear_autocast_cache()

    def parts(self, index: Tensor) -> list[tuple[Tensor, float]]:
        """A mini-batch in parts of at most the planned batch size, so that one that is the whole training split needs
        no more memory; each with its share of the images."""
        count, most = index.shape[-1], self.hparams["batch_size"]
        if count <= most:
            return [(index, 1.0)]
        return [(part, part.shape[-1] / count) for part in index.split(most, -1)]

    def learn(self, index: Tensor, share: float = 1.0) -> None:
        """Adds `share` of the mean loss on the images at `index` to the gradients, and the loss to the epoch's sum."""
        if self.regularization.mixup is None:
            images, labels = self.training_images.batch(index)
            loss = self.loss(self(images).float(), labels)
        else:
            images, labels, others, shares = self.regularization.mixup.batch(self.training_images, index)
            logits = self(images).float()
            own, other = (self.loss_of_each(logits, those, self.smoothing) for those in (labels, others))
            loss = torch.lerp(other, own, shares).mean(-1)
        (loss if share == 1 else loss * share).sum().backward()
        self.loss_sum.add_(loss.detach(), alpha=index.shape[-1])

    def learn_part(self, index: Tensor, share: float, group: "ProcessGroup") -> None:
        """Like `learn`, divided among processes: each adds the gradients of its part, which are to be summed up."""
        count = index.shape[-1]
        first, end = group.part(count)
        for layer in self.network.modules():
            if isinstance(layer, Dropout):
                layer.part = (first, count)
        if end > first:
            self.learn(index[..., first:end], share * ((end - first) / count))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over the mini-batch: a scalar, or one value per network."""
        if self.given_loss["name"] == "cross_entropy":  # by fewer operations
            return F.cross_entropy(logits, labels, label_smoothing=self.hparams["recipe"]["label_smoothing"])
        return self.loss_of_each(logits, labels, self.smoothing).mean(-1)

    def on_validation_epoch_start(self) -> None:
        if self.group:  # buffers are the running statistics of batch normalisation
            self.group.copy_first(self.network.buffers())
        self.sums: dict[str, Tensor] = {}

    def validation_step(self, block: list[Tensor], block_index: int) -> None:
        for index in block:
            images, labels = self.validation_images.batch(index)
            logits = self(images).float()
            for name, column in self.task.measured(self.given_loss, logits, labels).items():
                before = self.sums.setdefault(name, torch.zeros(len(self.generators), device=self.device))
                before += column.sum(-1)

    def on_validation_epoch_end(self) -> None:
        """Sets `numbers`.

        Raises:
            DivergedError: a loss of this epoch is NaN or infinite, and `diverged` is None; its `replica` is the
                network's index.
        """
        self.numbers = self.measured()
        # Not all scores: R² has no value where the target is constant.
        finite = {"training_loss", *(name for name, _ in self.task.MONITORS.values())}
        for number, numbers in enumerate(self.numbers):
            for name, value in numbers.items():
                if name in finite and number not in self.finished and not math.isfinite(value):
                    if self.diverged is not None:
                        self.diverged.add(number)
                        continue
                    reason = f"{name.replace('_', ' ')} became {value} in epoch {self.current_epoch + 1}"
                    raise DivergedError(reason, number)

    def measured(self) -> list[dict[str, float]]:
        """The epoch's sums as means, one dict per network."""
        sums = torch.stack([self.loss_sum, *self.sums.values()]).double()
        if self.group:
            self.group.sum(sums)
        sums = sums.cpu().reshape(len(sums), -1)
        loss, means = sums[0] / len(self.training_images), sums[1:] / len(self.validation_images)
        scores = self.task.scores(dict(zip(self.sums, means)))
        columns = {"training_loss": loss, **{f"validation_{name}": values for name, values in scores.items()}}
        return [dict(zip(columns, row)) for row in torch.stack(list(columns.values()), 1).tolist()]
