"""A training of a study by the usual script: a TensorDataset, a DataLoader, a LightningModule that logs with self.log,
and a Trainer on the CPU.

Left out in its favour: logger, checkpoints, progress bar and model summary.
"""

import tempfile

import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import Accuracy

from benchmarks import aside
from benchmarks.rivals.study_loop import OPTIMIZERS, mlp, tensors


class LitMLP(pl.LightningModule):
    def __init__(self, features, hidden, classes, optimizer, learning_rate):
        super().__init__()
        self.save_hyperparameters()
        self.model = mlp(features, hidden, classes)
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
        return OPTIMIZERS[self.hparams.optimizer](self.parameters(), lr=self.hparams.learning_rate)


def prepare(settings: dict):
    torch.set_num_threads(settings["threads"])
    training, held_out = (TensorDataset(*tensors(settings, split)) for split in ("train", "held_out"))
    features = training.tensors[0].shape[1]

    def train(seed: int, optimizer: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        pl.seed_everything(seed, verbose=False)
        model = LitMLP(features, settings["hidden"], settings["classes"], optimizer, settings["rates"][optimizer])
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=settings["epochs"],
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(
                model,
                DataLoader(training, batch_size=settings["batch_size"], shuffle=True),
                DataLoader(held_out, batch_size=settings["batch_size"]),
            )
        return trainer.callback_metrics["val_acc"].item()

    return train


if __name__ == "__main__":
    aside.serve(prepare)
