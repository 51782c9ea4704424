"""One training of one network, from its seed to its best epoch's weights; it goes on from where it was interrupted."""

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from torch import Tensor

from lightning_modules import memory, networks
from lightning_modules.classifier import Classifier
from lightning_modules.images import Images

MONITORS = {"nll": ("validation_nll", "min"), "accuracy": ("validation_accuracy", "max")}
# Training images that a network is shown before training.
PREPARED = 5000
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


@dataclass(frozen=True)
class Fitted:
    """What a training leaves: the network's state at its best epoch and one row of numbers per epoch (from 1)."""

    state: dict[str, Tensor]
    history: list[dict]
    best_epoch: int


class Progress(pl.Callback):
    """Keeps the history and the best weights, and reports.

    History and best weights are part of the one checkpoint file, which is renamed into place: whatever
    moment the process dies at, the file holds one whole epoch's end.
    """

    def __init__(self, monitor: str, report: Callable[[dict], None]) -> None:
        self.key, self.mode = MONITORS[monitor]
        self.report = report
        self.history: list[dict] = []
        self.best: dict = {}

    def state_dict(self) -> dict:
        return {"history": self.history, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.history, self.best = state["history"], state["best"]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Classifier, outputs, block, block_index: int) -> None:
        self.report({"epoch": trainer.current_epoch + 1, "done": (block_index + 1) / trainer.num_training_batches})

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Classifier) -> None:
        numbers = {name: value.item() for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, **numbers, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        self.history.append(row)
        value = numbers[self.key] if self.mode == "min" else -numbers[self.key]
        if not self.best or value < self.best["value"]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in module.network.state_dict().items()}
            self.best = {"value": value, "epoch": row["epoch"], "state": state}
        self.report({"epoch": row["epoch"], "done": 1.0, "row": row, "best_epoch": self.best["epoch"]})


class SaveLast(Checkpoint):
    """Saves after all other callbacks have seen the epoch, so that the checkpoint holds what they made of it.

    Lightning calls Checkpoint callbacks after early stopping, and any other kind before it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Classifier) -> None:
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        trainer.save_checkpoint(temporary)
        os.replace(temporary, self.file)


class Stopping(EarlyStopping):
    """Early stopping that still holds when a training that it had ended is taken up again from its checkpoint."""

    def on_train_start(self, trainer: pl.Trainer, module: Classifier) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def hardware_precision(precision: str, accelerator: str) -> str:
    """Resolves "auto": bfloat16 where the hardware multiplies it natively, else float32."""
    if precision != "auto":
        return precision
    if accelerator == "gpu":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def quiet() -> None:
    """Silences what Lightning says about hardware that was chosen on purpose and about one-process data loading."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.jit)")
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")


def fit(
    recipe: dict,
    training: tuple,
    validation: tuple,
    *,
    mean: list[float],
    std: list[float],
    class_names: list[str],
    seed: int,
    epochs: int,
    batch_size: int,
    augment: str = "none",
    early_stopping: int | None = None,
    monitor: str = "nll",
    accelerator: str = "cpu",
    device: int = 0,
    precision: str = "float32",
    threads: int | None = None,
    deterministic: bool = True,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda event: None,
) -> Fitted:
    """Trains one network and returns it at its best epoch by validation.

    Args:
        recipe: a member of params.yaml.
        training, validation: images (uint8, N×H×W×C) and labels (int64, N).
        mean, std: per channel, of the training images' intensities between 0 and 1.
        early_stopping: epochs without a better `monitor` ("nll" or "accuracy") before it stops.
        accelerator: "cpu" or "gpu"; `device` is the GPU's number.
        precision: "float32", or "bfloat16" for mixed precision.
        threads: CPU threads; the result depends on their number.
        checkpoint: saved after every epoch; where it exists, training goes on from it.
        report: called with {epoch, done} while an epoch runs, and with its `row` of the history at its end.

    Raises:
        DivergedError: a loss became NaN or infinite.
        InputError: torch refuses the optimizer's settings.
    """
    quiet()
    memory.keep()
    if threads:
        torch.set_num_threads(threads)
    place = torch.device("cuda", device) if accelerator == "gpu" else torch.device("cpu")
    module = Classifier(recipe, list(training[0].shape[1:]), len(class_names), seed, epochs, batch_size)
    module.attach(
        Images(*training, mean, std, augment, device=place),
        Images(*validation, mean, std, device=place),
    )
    networks.prepare(module.network, module.training_images.first(PREPARED))
    progress = Progress(monitor, report)
    callbacks: list[pl.Callback] = [progress]
    if early_stopping:
        key, mode = MONITORS[monitor]
        callbacks.append(
            Stopping(key, patience=early_stopping, mode=mode, check_on_train_epoch_end=True, min_delta=0.0)
        )
    if checkpoint:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(SaveLast(checkpoint))
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=[device] if accelerator == "gpu" else 1,
        precision=PRECISIONS[precision],
        deterministic=deterministic,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    resume = checkpoint if checkpoint and checkpoint.exists() else None
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    if trainer.received_sigterm:
        # Lightning ends a terminated fit as if it were finished.
        raise SystemExit(143)
    return Fitted(progress.best["state"], progress.history, progress.best["epoch"])
