"""The LightningModule that trains one network on images in memory."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import networks, optimizers
from lightning_modules.dropout import Dropout
from lightning_modules.errors import DivergedError
from lightning_modules.images import Blocks, Images
from lightning_modules.lightning import pl

if TYPE_CHECKING:
    from lightning_modules.distributed import ProcessGroup

# Mini-batches in a block, and images in a batch of the validation pass.
BLOCK = 50
EVALUATION_BATCH = 1000


def epoch_seed(seed: int, epoch: int) -> int:
    """Of the random numbers of one epoch, counted from 0."""
    return seed * 1_000_003 + epoch


class Classifier(pl.LightningModule):
    """Softmax regression on what a network makes of an image.

    Args:
        recipe: a member of params.yaml, see `networks.build` and `optimizers.build`; also label_smoothing and schedule.
        shape: height, width and channels of an image.
        classes: number of classes.
        seed: of initial weights, batch order, dropout and augmentation.
        epochs, batch_size: of the planned training; the schedule runs over them.

    Constructor arguments are plain JSON types, so a checkpoint loads by itself.

    Attributes:
        numbers: the last epoch's training_loss, validation_nll and validation_accuracy, one dict for each network.
        finished: numbers of the networks that early stopping has ended, while others go on.
    """

    # Given by `attach`.
    training_images: Images
    validation_images: Images

    def __init__(self, recipe: dict, shape: list[int], classes: int, seed: int, epochs: int, batch_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # a block takes many steps
        torch.manual_seed(seed)
        self.network = networks.build(recipe, shape, classes).to(memory_format=torch.channels_last)
        self.group: ProcessGroup | None = None
        self.numbers: list[dict[str, float]] = []
        self.finished: set[int] = set()
        # One for each network; None is torch's global generator.
        self.seeds: list[int] = [seed]
        self.generators: list[torch.Generator | None] = [None]

    def attach(self, training: Images, validation: Images, group: "ProcessGroup | None" = None) -> "Classifier":
        """Gives the module what it learns from, and the processes that learn it together; neither is part of a
        checkpoint."""
        self.training_images, self.validation_images, self.group = training, validation, group
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N×classes, of normalised images, N×C×H×W."""
        return self.network(images)

    def state(self, replica: int = 0) -> dict[str, Tensor]:
        """What the network that `networks.build` builds has to load to be this one."""
        return self.network.state_dict()

    def train_dataloader(self) -> Blocks:
        return Blocks(len(self.training_images), self.hparams["batch_size"], BLOCK, self.order)

    def order(self) -> Tensor:
        """The order of the training images in the epoch to come."""
        return torch.randperm(len(self.training_images), device=self.device)

    def val_dataloader(self) -> Blocks:
        first, end = self.validated()
        return Blocks(end - first, EVALUATION_BATCH, 1, lambda: torch.arange(first, end, device=self.device))

    def validated(self) -> tuple[int, int]:
        """The first of the validation images that this process scores, and the one after the last."""
        count = len(self.validation_images)
        return self.group.part(count) if self.group else (0, count)

    def configure_optimizers(self) -> "pl.utilities.types.OptimizerLRSchedulerConfig":
        recipe = self.hparams["recipe"]
        optimizer = self.build_optimizer()
        steps = self.hparams["epochs"] * self.train_dataloader().steps
        return {"optimizer": optimizer, "lr_scheduler": optimizers.schedule(recipe["schedule"], optimizer, steps)}

    def build_optimizer(self) -> torch.optim.Optimizer:
        return optimizers.build(self.hparams["recipe"]["optimizer"], networks.groups(self.network))

    def built(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """What `configure_optimizers` gave Lightning, which would take several."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        return optimizer, scheduler

    # An epoch's random numbers are a function of the seed and the epoch alone, so that a training that was
    # interrupted goes on as if it had not been. Lightning draws the batch order before on_train_epoch_start.
    def on_train_start(self) -> None:
        if self.group:
            self.group.copy_first(self.state_dict().values())
        self.reseed(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        self.reseed(self.current_epoch + 1)

    def reseed(self, epoch: int) -> None:
        torch.manual_seed(epoch_seed(self.hparams["seed"], epoch))

    def on_train_epoch_start(self) -> None:
        self.training_images.begin_epoch(self.current_epoch, self.seeds, self.generators)
        optimizers.freeze_ended(self.built()[0])
        for layer in self.network.modules():
            if isinstance(layer, Dropout):
                layer.begin_epoch(self.generators)
        # Running sums stay on the device: reading a loss in every step would wait for it.
        self.loss_sum = torch.zeros(len(self.generators), device=self.device)

    def training_step(self, block: list[Tensor], block_index: int) -> None:
        optimizer, scheduler = self.built()
        for index in block:
            optimizer.zero_grad()
            if self.group:
                self.learn_part(index, self.group)
            else:
                self.learn(index)
            optimizer.step()
            scheduler.step()
            # Autocast keeps the weights it has cast until its outermost region ends, which here is the whole block.
            torch.clear_autocast_cache()

    def learn(self, index: Tensor, share: float = 1.0) -> None:
        """Adds `share` of the mean loss on the images at `index` to the gradients, and the loss to the epoch's sum."""
        images, labels = self.training_images.batch(index)
        loss = self.loss(self(images).float(), labels)
        (loss if share == 1 else loss * share).sum().backward()
        self.loss_sum.add_(loss.detach(), alpha=index.shape[-1])

    def learn_part(self, index: Tensor, group: "ProcessGroup") -> None:
        """As `learn`, with other processes: each adds its part, and all have the gradients of the whole."""
        count = index.shape[-1]
        first, end = group.part(count)
        for layer in self.network.modules():
            if isinstance(layer, Dropout):
                layer.part = (first, count)
        if end > first:
            self.learn(index[..., first:end], (end - first) / count)
        group.sum_gradients(self.network)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the mini-batch, for each network."""
        return F.cross_entropy(logits, labels, label_smoothing=self.hparams["recipe"]["label_smoothing"])

    def on_validation_epoch_start(self) -> None:
        if self.group:  # the running statistics of batch normalisation
            self.group.copy_first(self.network.buffers())
        self.nll_sum = torch.zeros(len(self.generators), device=self.device)
        self.hits = torch.zeros(len(self.generators), device=self.device)

    def validation_step(self, block: list[Tensor], block_index: int) -> None:
        for index in block:
            images, labels = self.validation_images.batch(index)
            logits = self(images).float()
            nll = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
            self.nll_sum += nll.view(labels.shape).sum(-1)
            self.hits += (logits.argmax(-1) == labels).sum(-1)

    def on_validation_epoch_end(self) -> None:
        """Keeps the epoch's numbers.

        Raises:
            DivergedError: a loss of this epoch is NaN or infinite; its `replica` is the network's number.
        """
        self.numbers = self.measured()
        for number, numbers in enumerate(self.numbers):
            for name, value in numbers.items():
                if number not in self.finished and not math.isfinite(value):
                    reason = f"{name.replace('_', ' ')} became {value} in epoch {self.current_epoch + 1}"
                    raise DivergedError(reason, number)

    def measured(self) -> list[dict[str, float]]:
        """The epoch's sums as means, one dict for each network."""
        sums = torch.stack([self.loss_sum, self.nll_sum, self.hits]).double()
        if self.group:
            self.group.sum(sums)
        sums = sums.cpu().reshape(3, -1)
        count = len(self.validation_images)
        loss, nll, hits = (sums / torch.tensor([[len(self.training_images)], [count], [count]])).tolist()
        return [
            {"training_loss": loss[number], "validation_nll": nll[number], "validation_accuracy": hits[number]}
            for number in range(len(loss))
        ]
