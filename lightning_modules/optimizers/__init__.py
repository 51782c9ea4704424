"""The optimizers and learning-rate schedules, by name. A name means what it means in torch.optim."""

from lightning_modules.optimizers.building import FULL_BATCH, LINEAR, OPTIMIZERS, TAKES_TENSORS, build
from lightning_modules.optimizers.schedules import (
    SCHEDULES,
    epoch_ended,
    freeze_ended,
    goes_by_validation,
    last_rates,
    schedule,
)
from lightning_modules.optimizers.stacking import StackedOptimizer

__all__ = [
    "FULL_BATCH",
    "LINEAR",
    "OPTIMIZERS",
    "SCHEDULES",
    "TAKES_TENSORS",
    "StackedOptimizer",
    "build",
    "epoch_ended",
    "freeze_ended",
    "goes_by_validation",
    "last_rates",
    "schedule",
]
