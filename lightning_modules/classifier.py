"""The LightningModule that trains one network on images in memory."""

import math

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import networks, optimizers
from lightning_modules.errors import DivergedError
from lightning_modules.images import Blocks, Images

# Mini-batches in a block, and images in a batch of the validation pass.
BLOCK = 50
EVALUATION_BATCH = 1000


class Classifier(pl.LightningModule):
    """Softmax regression on what a network makes of an image.

    Args:
        recipe: a member of params.yaml, see `networks.build` and `optimizers.build`; also label_smoothing and schedule.
        shape: height, width and channels of an image.
        classes: number of classes.
        seed: of initial weights, batch order, dropout and augmentation.
        epochs, batch_size: of the planned training; the schedule runs over them.

    Constructor arguments are plain JSON types, so a checkpoint loads by itself.
    """

    def __init__(self, recipe: dict, shape: list[int], classes: int, seed: int, epochs: int, batch_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # a block takes many steps
        torch.manual_seed(seed)
        self.network = networks.build(recipe, shape, classes).to(memory_format=torch.channels_last)
        self.training_images: Images | None = None
        self.validation_images: Images | None = None

    def attach(self, training: Images, validation: Images) -> "Classifier":
        """Gives the module what it learns from; images are no part of a checkpoint."""
        self.training_images, self.validation_images = training, validation
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N×classes, of normalised images, N×C×H×W."""
        return self.network(images)

    def train_dataloader(self) -> Blocks:
        count = len(self.training_images)
        return Blocks(count, self.hparams.batch_size, BLOCK, lambda: torch.randperm(count).to(self.device))

    def val_dataloader(self) -> Blocks:
        count = len(self.validation_images)
        return Blocks(count, EVALUATION_BATCH, 1, lambda: torch.arange(count, device=self.device))

    def configure_optimizers(self) -> dict:
        recipe = self.hparams.recipe
        optimizer = optimizers.build(recipe["optimizer"], networks.groups(self.network))
        steps = self.hparams.epochs * self.train_dataloader().steps
        return {"optimizer": optimizer, "lr_scheduler": optimizers.schedule(recipe["schedule"], optimizer, steps)}

    # An epoch's random numbers are a function of the seed and the epoch alone, so that a training that was
    # interrupted goes on as if it had not been. Lightning draws the batch order before on_train_epoch_start.
    def on_train_start(self) -> None:
        torch.manual_seed(self.hparams.seed * 1_000_003 + self.current_epoch)

    def on_train_epoch_end(self) -> None:
        torch.manual_seed(self.hparams.seed * 1_000_003 + self.current_epoch + 1)

    def on_train_epoch_start(self) -> None:
        self.training_images.begin_epoch(self.current_epoch, self.hparams.seed)
        optimizers.freeze_ended(self.optimizers(use_pl_optimizer=False))
        # Running sums stay on the device: reading a loss in every step would wait for it.
        self.loss_sum = torch.zeros((), device=self.device)

    def training_step(self, block: list[Tensor], block_index: int) -> None:
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        for index in block:
            images, labels = self.training_images.batch(index)
            logits = self(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.hparams.recipe["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            # Autocast keeps the weights it has cast until its outermost region ends, which here is the whole block.
            torch.clear_autocast_cache()
            self.loss_sum += loss.detach() * len(labels)

    def on_validation_epoch_start(self) -> None:
        self.nll_sum = torch.zeros((), device=self.device)
        self.hits = torch.zeros((), device=self.device)

    def validation_step(self, block: list[Tensor], block_index: int) -> None:
        for index in block:
            images, labels = self.validation_images.batch(index)
            logits = self(images).float()
            self.nll_sum += F.cross_entropy(logits, labels, reduction="sum")
            self.hits += (logits.argmax(1) == labels).sum()

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's numbers.

        Raises:
            DivergedError: a loss of this epoch is NaN or infinite.
        """
        count = len(self.validation_images)
        numbers = {
            "training_loss": (self.loss_sum / len(self.training_images)).item(),
            "validation_nll": (self.nll_sum / count).item(),
            "validation_accuracy": (self.hits / count).item(),
        }
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name.replace('_', ' ')} became {value} in epoch {self.current_epoch + 1}")
        self.log_dict(numbers)
