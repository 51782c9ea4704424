"""One training, from the seed to the best epoch's weights. An interrupted training resumes from its checkpoint.

`fit` trains one network, `fit_together` several of one shape as a single computation.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_modules import memory, networks, optimizers, regularization, sealed
from lightning_modules.classifier import Classifier
from lightning_modules.errors import InputError
from lightning_modules.images import Images
from lightning_modules.lightning import pl
from lightning_modules.together import Together

if TYPE_CHECKING:
    from lightning_modules.distributed import ProcessGroup

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        state: the network's state_dict at its best epoch.
        history: one row of numbers per epoch; `epoch` counts from 1, `lr` is that of the epoch's last step.
        best_epoch: from 1.
        finished: whether all epochs are done or early stopping ended them. False: only the turn is over.
        diverged: whether a loss became NaN or infinite, which ended the training; the best epoch was before. A network
            that diverged in its first epoch has no state, and best_epoch is 0.
    """

    state: dict[str, Tensor]
    history: list[dict]
    best_epoch: int
    finished: bool = True
    diverged: bool = False


class Progress(pl.Callback):
    """Keeps the history and the best weights of each network, stops it early, and reports.

    A stopped network keeps the weights of its best epoch, while others that train with it go on.

    History and best weights are part of the checkpoint, a single file that is renamed into place: whenever the process
    dies, the file holds the end of one whole epoch.
    """

    def __init__(
        self, monitored: tuple[str, int], patience: int | None, turn: int | None, networks: int,
        report: Callable[[dict], None],
    ) -> None:  # fmt: skip
        self.key, self.sign = monitored
        self.patience, self.left, self.report = patience, turn, report
        self.histories: list[list[dict]] = [[] for _ in range(networks)]
        self.best: list[dict] = [{} for _ in range(networks)]
        self.diverged: set[int] = set()

    def state_dict(self) -> dict:
        return {"histories": self.histories, "best": self.best, "diverged": sorted(self.diverged)}

    def load_state_dict(self, state: dict) -> None:
        self.histories, self.best = state["histories"], state["best"]
        self.diverged = set(state["diverged"])

    def stopped(self, number: int) -> bool:
        if number in self.diverged:
            return True
        if not self.patience or not self.histories[number]:
            return False
        return self.histories[number][-1]["epoch"] - self.best[number]["epoch"] >= self.patience

    def stop(self, trainer: pl.Trainer, module: Classifier) -> None:
        module.finished = {number for number in range(len(self.best)) if self.stopped(number)}
        trainer.should_stop = trainer.should_stop or len(module.finished) == len(self.best) or self.left == 0

    # Lightning's callbacks take any module; this one is for trainings of a Classifier alone.
    def on_train_start(self, trainer: pl.Trainer, module: Classifier) -> None:  # type: ignore[override]
        # A training that early stopping had ended, resumed from its checkpoint, ends again.
        self.stop(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Classifier, outputs: object, block: list[Tensor], block_index: int
    ) -> None:
        done = (block_index + 1) / trainer.num_training_batches
        for number in range(len(self.best)):
            if number not in module.finished:
                self.report({"replica": number, "epoch": trainer.current_epoch + 1, "done": done})

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Classifier) -> None:  # type: ignore[override]
        scheduler = module.built()[1]
        epoch, rates = trainer.current_epoch + 1, module.last_rates()
        rows = {}
        self.diverged |= module.diverged or set()
        for number, numbers in enumerate(module.numbers):
            if number in module.finished or number in self.diverged:
                continue
            rows[number] = {"epoch": epoch, **numbers, "lr": rates[number]}
            self.histories[number].append(rows[number])
            value = self.sign * numbers[self.key]
            if not self.best[number] or value < self.best[number]["value"]:
                state = {name: tensor.detach().cpu().clone() for name, tensor in module.state(number).items()}
                self.best[number] = {"value": value, "epoch": epoch, "state": state}
        # A stack has no schedule that goes by it.
        optimizers.epoch_ended(scheduler, self.sign * module.numbers[0][self.key])
        if self.left is not None:
            self.left -= 1
        self.stop(trainer, module)
        for number, row in rows.items():
            best = self.best[number]["epoch"]
            self.report({"replica": number, "epoch": epoch, "done": 1.0, "row": row, "best_epoch": best})


class SaveLast(pl.callbacks.Checkpoint):
    """Saves a checkpoint at the first epoch that ends after `unsaved` seconds, at the last one of a turn, and in
    between so often that saving takes a twentieth of the time.

    Lightning calls Checkpoint callbacks last, so that the checkpoint has what the other callbacks keep of the epoch.
    """

    SHARE = 0.05  # of the time: an epoch of a small network takes no longer than its checkpoint
    LONGEST = 300.0  # seconds between checkpoints

    def __init__(self, file: Path, unsaved: float) -> None:
        self.file = file
        self.due = time.monotonic() + unsaved

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        started = time.monotonic()
        # Saving needs all processes, so rank 0 decides for all of them.
        if not trainer.strategy.broadcast(trainer.should_stop or started >= self.due):
            return
        self.save(trainer)
        saved = time.monotonic()
        self.due = saved + min((saved - started) * (1 - self.SHARE) / self.SHARE, self.LONGEST)

    def save(self, trainer: pl.Trainer) -> None:
        # Whole or not at all, as `flows.project.file_io.whole` writes, but by several processes together.
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            trainer.save_checkpoint(temporary)  # rank 0 writes, the others wait
            if trainer.is_global_zero:
                sealed.seal(temporary)
                os.replace(temporary, self.file)
        except BaseException:  # a full disk, or an interrupt
            temporary.unlink(missing_ok=True)
            raise


def checked(checkpoint: Path) -> Path | None:
    """Renames a damaged checkpoint to <its name>.damaged and returns that path; None if the checkpoint is whole."""
    if sealed.is_whole(checkpoint):
        return None
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    os.replace(checkpoint, aside)
    return aside


def hardware_precision(precision: str, accelerator: str) -> str:
    """Resolves "auto": bfloat16 where the hardware multiplies it natively, else float32."""
    if precision != "auto":
        return precision
    if accelerator == "gpu":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        # ONEDNN_MAX_CPU_ISA may forbid oneDNN these instructions; without them bfloat16 is slower than float32.
        native = native and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if native else "float32"


def quiet() -> None:
    """Silences Lightning's remarks about unused hardware and data loading without workers: both are on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.jit)")
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")


@dataclass(frozen=True)
class Settings:
    """How to train; shared by all networks that train together.

    Attributes:
        mean, std: per channel, of the training images' intensities between 0 and 1.
        class_names: of the labels 0, 1, ...
        task, target: of the dataset's card, see `tasks.of`.
        augment: a name of `images.AUGMENTATIONS`.
        early_stopping: epochs without a better `monitor` ("nll" or "accuracy") before a network stops.
        turn: epochs after which to return, even if more are left. The next call resumes from the checkpoint; a turn
            without a checkpoint is a ValueError.
        accelerator: "cpu" or "gpu"; `device` is the GPU's number.
        precision: "float32", or "bfloat16" for mixed precision.
        threads: CPU threads; the result depends on their number.
        checkpoint: a file, saved as often as `SaveLast` says. If it exists, training resumes from it; a damaged one is
            renamed to <its name>.damaged, and training begins anew.
        report: called with {replica, epoch, done} while an epoch runs, and also with the history's `row` and the
            `best_epoch` when it ends; `replica` counts the networks from 0. If a checkpoint existed, the first call has
            {replica, aside}: the path of the damaged checkpoint, or None.
        group: the processes that train the networks together. Each calls `fit` with the same arguments, and they divide
            each mini-batch among themselves; only rank 0 writes and reports.
        note_divergence: a network whose loss becomes NaN or infinite stops and is `Fitted.diverged`, instead of ending
            all by a DivergedError.
        unsaved: seconds before the first checkpoint.
    """

    mean: list[float]
    std: list[float]
    class_names: list[str]
    epochs: int
    batch_size: int
    task: str = "classification"
    target: dict | None = None
    augment: str = "none"
    early_stopping: int | None = None
    monitor: str = "nll"
    turn: int | None = None
    accelerator: str = "cpu"
    device: int = 0
    precision: str = "float32"
    threads: int | None = None
    deterministic: bool = True
    checkpoint: Path | None = None
    report: Callable[[dict], None] = lambda event: None
    group: "ProcessGroup | None" = None
    note_divergence: bool = False
    unsaved: float = 0.0

    def __post_init__(self) -> None:
        if self.turn is not None and (self.turn < 1 or self.checkpoint is None):
            raise ValueError(f"a turn of {self.turn} epochs: give 1 or more, and a checkpoint to go on from")

    @property
    def about(self) -> dict:
        return {"class_names": self.class_names, "task": self.task, "target": self.target}

    @property
    def place(self) -> torch.device:
        return torch.device("cuda", self.device) if self.accelerator == "gpu" else torch.device("cpu")


def fit(recipe: dict, training: tuple, validation: tuple, *, seed: int, **settings: Any) -> Fitted:
    """Trains one network and returns it at its best epoch, chosen on validation.

    Args:
        recipe: a member of params.yaml.
        training, validation: a split: images (M×H×W×C), labels (M×...), see `Images`, and optionally rows (int64, the
            indices of those that belong to the split; None for all).
        seed: of initial weights, batch order, dropout and augmentation.
        settings: see `Settings`.

    Raises:
        DivergedError: a loss became NaN or infinite.
        InputError: torch refuses the optimizer's hyper-parameters, the initializer does not fit the network or label
            smoothing the loss, or the checkpoint is no checkpoint.
    """
    given = Settings(**settings)
    prepare(given)
    shape, classes = list(training[0].shape[1:]), len(given.class_names)
    module = Classifier(recipe, shape, classes, seed, given.epochs, given.batch_size, given.about)
    return train(module, 1, training, validation, given)[0]


def fit_together(
    recipes: list[dict], training: tuple, validation: tuple, *, seeds: list[int], **settings: Any
) -> list[Fitted]:
    """Trains networks of one shape as a single computation. Each result is that of `fit`, up to rounding.

    Args:
        recipes, seeds: one per network; the recipes may differ in what `together.FREE` names.
        training, validation, settings: as for `fit`.

    Raises:
        DivergedError, InputError: as for `fit`.
        NotStackableError: a layer of the network has no stacked version.
    """
    given = Settings(**settings)
    prepare(given)
    shape, classes = list(training[0].shape[1:]), len(given.class_names)
    module = Together(recipes, shape, classes, seeds, given.epochs, given.batch_size, given.about)
    return train(module, len(seeds), training, validation, given)


def prepare(settings: Settings) -> None:
    """Sets what torch and Lightning need to have set before the first tensor."""
    quiet()
    memory.keep()
    # Optimizers hold many denormal numbers, and with these a processor takes a hundred times as long.
    torch.set_flush_denormal(True)
    # Filling is an aid for finding reads of uninitialized memory; it costs a write to every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # is set by a property
    # Lightning sets it too, but only after `networks.prepare`, which may multiply matrices on the GPU.
    if settings.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if settings.threads:
        torch.set_num_threads(settings.threads)


def images(split: tuple, settings: Settings, augment: str = "none", cutout: float = 0.0) -> Images:
    pixels, labels, rows = (*split, None)[:3]
    return Images(pixels, labels, settings.mean, settings.std, augment, settings.place, rows, cutout)


def refuse_other(checkpoint: Path) -> None:
    """Raises InputError for a file that is no checkpoint, or a pickle of more than plain values. Nothing in it is run,
    and its tensors are memory-mapped, not read."""
    try:
        known = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception:  # torch raises a dozen classes of errors here, and its messages advise to trust the file
        known = None
    if not isinstance(known, dict):
        raise InputError(f"{checkpoint} is no checkpoint of this project: remove it, and the training begins anew")


def train(module: Classifier, count: int, training: tuple, validation: tuple, settings: Settings) -> list[Fitted]:
    """Trains the networks of a module; see `fit`."""
    group = settings.group
    cutout = regularization.completed(module.hparams["recipe"])["cutout"]
    module.attach(images(training, settings, settings.augment, cutout), images(validation, settings), group)
    networks.prepare(module.network, module.training_images.first)
    if settings.note_divergence:
        module.diverged = set()
    first = not group or group.rank == 0
    report = settings.report if first else lambda event: None
    monitored = module.task.MONITORS[settings.monitor]
    progress = Progress(monitored, settings.early_stopping, settings.turn, count, report)
    callbacks: list[pl.Callback] = [progress]
    checkpoint = settings.checkpoint
    if checkpoint:
        if first:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(SaveLast(checkpoint, settings.unsaved))
    where: dict[str, Any] = {"devices": [settings.device] if settings.accelerator == "gpu" else 1}
    if group:
        from lightning_modules.distributed import EndsOnSigterm

        where = group.for_trainer()
        callbacks.append(EndsOnSigterm())
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator=settings.accelerator,
        **where,
        precision=PRECISIONS[settings.precision],
        deterministic=settings.deterministic,
        benchmark=not settings.deterministic,  # lets cuDNN choose the fastest convolution
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    if first and checkpoint and checkpoint.exists():
        aside = checked(checkpoint)
        for number in range(count):
            report({"replica": number, "aside": aside})
    if group:
        group.told(None)  # a barrier: the other ranks look for the checkpoint after rank 0 has checked it
    resume = checkpoint if checkpoint and checkpoint.exists() else None
    if group and len(set(group.all(resume is not None))) > 1:
        raise InputError(
            f"{checkpoint} is not the same for all nodes that train together: they need one project folder, shared"
        )
    if resume:
        refuse_other(resume)
    else:
        module.pretrain()
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    if trainer.received_sigterm:
        # Lightning ends a terminated fit as if it were finished.
        raise SystemExit(143)
    return [
        Fitted(
            best.get("state", {}),
            history,
            best.get("epoch", 0),
            finished=len(history) == settings.epochs or progress.stopped(number),
            diverged=number in progress.diverged,
        )
        for number, (best, history) in enumerate(zip(progress.best, progress.histories))
    ]
