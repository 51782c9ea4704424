"""The usual script, as Lightning's own tutorial on MNIST has it: torchvision's dataset, a DataLoader, a LightningModule
that logs with self.log, a Trainer and an MLFlowLogger.

Two things are left out, both in its favour: the progress bar, and the model summary.
"""

import tempfile

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import Accuracy
from torchvision import transforms
from torchvision.datasets import MNIST

from benchmarks import aside


class LitMNIST(pl.LightningModule):
    def __init__(self, data_dir, shape, classes, mean, std, hidden, dropout, learning_rate, batch_size):
        super().__init__()
        self.save_hyperparameters()
        height, width, channels = shape
        layers, features = [nn.Flatten()], channels * height * width
        for size in hidden:
            layers += [nn.Linear(features, size), nn.ReLU(), nn.Dropout(dropout)]
            features = size
        self.model = nn.Sequential(*layers, nn.Linear(features, classes))
        for layer in self.model:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
        self.val_accuracy = Accuracy(task="multiclass", num_classes=classes)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_accuracy.update(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", self.val_accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)

    def setup(self, stage=None):
        self.mnist_train = MNIST(self.hparams.data_dir, train=True, transform=self.transform)
        self.mnist_val = MNIST(self.hparams.data_dir, train=False, transform=self.transform)

    def train_dataloader(self):
        return DataLoader(self.mnist_train, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.mnist_val, batch_size=self.hparams.batch_size)


def prepare(settings: dict):
    recipe = settings["recipe"]
    torch.set_num_threads(settings["threads"])

    def train(seed: int, precision: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        pl.seed_everything(seed, verbose=False)
        model = LitMNIST(
            settings["folder"], settings["shape"], settings["classes"], settings["mean"], settings["std"],
            recipe["network"]["hidden"], recipe["dropout"], recipe["optimizer"]["lr"], settings["batch_size"],
        )  # fmt: skip
        logger = False
        if settings["tracking_uri"]:
            logger = pl.loggers.MLFlowLogger(experiment_name="usual_script", tracking_uri=settings["tracking_uri"])
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=settings["epochs"],
                accelerator=settings["accelerator"],
                devices=1,
                precision={"float32": "32-true", "bfloat16": "bf16-mixed"}[precision],
                logger=logger,
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model)
        return trainer.callback_metrics["val_acc"].item()

    return train


if __name__ == "__main__":
    aside.serve(prepare)
